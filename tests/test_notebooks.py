"""Every notebook runs as committed, without an error or a word on stderr, and is committed without outputs."""

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


def leftovers(notebook):
    """Return the indices of the cells that hold what a run left there."""
    code = {i: cell for i, cell in enumerate(notebook.cells) if cell.cell_type == "code"}
    return [i for i, cell in code.items() if cell.outputs or cell.execution_count is not None]


def test_there_are_notebooks():
    assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, run):
    assert said_on_stderr(run(nbformat.read(path, as_version=4))) == ""


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_committed_bare(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert leftovers(notebook) == []
    assert notebook.metadata.kernelspec.name == "python3"  # what every reader's Jupyter has


def of_cells(*sources):
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])


def test_the_runner_sees_errors_noise_and_leftovers(run):
    where = of_cells("import sys; print(sys.executable, file=sys.stderr)", "1")
    done = run(where)
    assert said_on_stderr(done).strip() == sys.executable
    assert leftovers(done) == [0, 1]
    assert leftovers(of_cells("1")) == []
    with pytest.raises(CellExecutionError, match="on purpose"):
        run(of_cells("raise ValueError('on purpose')"))
