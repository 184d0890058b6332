"""The wheel, installed into an empty folder and run from another one."""

import configparser
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

CLONE = Path(__file__).parents[2]
OWN = ("lightning_coba", "conf", "setup.cfg", "pyproject.toml", "README.md", "LICENSE")


def pip(*arguments):
    line = [sys.executable, "-m", "pip", "--disable-pip-version-check", *map(str, arguments)]
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    source = tmp_path_factory.mktemp("source")
    for name in OWN:  # a copy: setuptools would leave its build folder in the clone
        copy = shutil.copytree if (CLONE / name).is_dir() else shutil.copy
        copy(CLONE / name, source / name)
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", source / "dist", source)
    [file] = (source / "dist").glob("*.whl")
    return file


def test_wheel_holds_every_yaml_and_nothing_else_of_the_clone(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {f"lightning_coba/conf/{f.relative_to(CLONE / 'conf')}" for f in (CLONE / "conf").rglob("*.yaml")}
    assert len(expected) > 15
    assert expected <= names
    ours = (CLONE / "lightning_coba").rglob("*.*")
    packaged = {str(file.relative_to(CLONE)) for file in ours if file.is_file() and file.suffix != ".pyc"}
    assert packaged <= names
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"lightning_coba"}
    assert not [name for name in names if "test" in name]


@pytest.mark.filterwarnings("ignore:ConvergenceBalancer. about")
def test_installed_wheel_trains_from_an_empty_folder(wheel, command, overrides, tmp_path):
    target = tmp_path / "target"
    pip("install", "--no-deps", "--target", target, wheel)
    entry_points = configparser.ConfigParser()
    [declared] = target.glob("*.dist-info/entry_points.txt")
    entry_points.read(declared)
    assert entry_points["console_scripts"]["coba-train"] == "lightning_coba.cli.train:main"

    # `python -m` with the target first on the path; -c would say where it came from, so a callback does.
    (target / "tells_where.py").write_text(
        "import lightning as L, lightning_coba, lightning_coba.cli.config_folder as c\n"
        "class Where(L.Callback):\n"
        "    def setup(self, *a, **k): print('FROM', lightning_coba.__file__, c.config_folder())\n"
    )
    where = "+callbacks.where={_target_: tells_where.Where}"
    cwd = tmp_path / "empty"
    printed = command(cwd, *overrides, where, "trainer.max_epochs=1", python_path=target)
    package = target / "lightning_coba"
    assert f"FROM {package / '__init__.py'} {package / 'conf'}" in printed
    assert str(CLONE / "lightning_coba") not in printed
    assert (cwd / "runs" / "powers-coba-seed1" / "before_after.csv").is_file()
    assert [path.name for path in cwd.iterdir()] == ["runs"]
