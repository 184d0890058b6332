"""Every notebook runs as committed, without an error or a word on stderr, and is committed with its figures."""

import re
import sys
from pathlib import Path

import nbformat
import pytest
from ipykernel.kernelspec import write_kernel_spec
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
KERNEL = "this-interpreter"
HANG = 300  # seconds after which a cell counts as hung


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Return a function that executes a notebook in an empty folder and returns it with its outputs.

    The kernel is the interpreter that runs the tests. A kernel called "python3" is whatever was last installed under
    that name, perhaps another Python without this package; so a kernelspec of our own is written for each test, under
    a name that nothing else has.
    """
    write_kernel_spec(str(tmp_path / "share" / "kernels" / KERNEL))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "share"))
    for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):  # nothing of the user's, nothing to it
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # tiny tensors: more threads wait for each other
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # an unused GPU is worth a warning to Lightning
    folder = tmp_path / "elsewhere"
    folder.mkdir()

    def execute(notebook):
        resources = {"metadata": {"path": str(folder)}}
        return NotebookClient(notebook, kernel_name=KERNEL, timeout=HANG, resources=resources).execute()

    return execute


def said_on_stderr(notebook):
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return "".join(output.text for output in outputs if output.get("name") == "stderr")


def test_there_are_notebooks():
    assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, run):
    assert said_on_stderr(run(nbformat.read(path, as_version=4))) == ""


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_committed_with_its_figures(path):
    """Of one run from the first cell to the last (`make notebooks`), without anything of the machine that it ran on."""
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    text = path.read_text(encoding="utf-8")
    assert '"image/png"' in text or "data:image/png" in text
    assert said_on_stderr(notebook) == ""
    assert not re.search(r"/(tmp|home|root|work|Users)/", text)
    assert len(text) < 500_000
    assert notebook.metadata.kernelspec.name == "python3"  # what every reader's Jupyter has


def of_cells(*sources):
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])


def test_the_runner_sees_errors_and_noise(run):
    where = of_cells("import sys; print(sys.executable, file=sys.stderr)", "1")
    done = run(where)
    assert said_on_stderr(done).strip() == sys.executable
    with pytest.raises(CellExecutionError, match="on purpose"):
        run(of_cells("raise ValueError('on purpose')"))
