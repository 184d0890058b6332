"""Run the notebooks and keep what they print and draw: `make notebooks`, after a change to one of them.

Each runs in an empty folder of its own, on one CPU core, as in the tests. What would differ from one run to the next,
or tells of this machine, is left out: times, messages on stderr, and the folder's path.
"""

import base64
import io
import os
import re
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from PIL import Image

COLOURS = 48
#: Pixels of a figure's longer side.
WIDEST = 900
PICTURE = re.compile("(?<=data:image/png;base64,)[A-Za-z0-9+/=]+")


def executed(file: Path) -> nbformat.NotebookNode:
    """Return a notebook with its outputs."""
    notebook = nbformat.read(file, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        NotebookClient(notebook, timeout=None, resources={"metadata": {"path": folder}}).execute()
        for cell in notebook.cells:
            cell.metadata.pop("execution", None)
            if cell.cell_type == "code":
                cell.outputs = [_plain(output, folder) for output in cell.outputs if output.get("name") != "stderr"]
    notebook.metadata.pop("widgets", None)
    notebook.metadata.pop("language_info", None)
    return notebook


def _plain(output: nbformat.NotebookNode, folder: str) -> nbformat.NotebookNode:
    if "text" in output:
        output.text = output.text.replace(folder, "...")
    data = output.get("data", {})
    data.pop("application/vnd.jupyter.widget-view+json", None)
    for kind, content in data.items():
        if kind.startswith("text/"):
            data[kind] = PICTURE.sub(lambda found: _small(found[0]), content.replace(folder, "..."))
        elif kind == "image/png":
            data[kind] = _small(content)
    return output


def _small(png: str) -> str:
    """Return a figure, in base64, with as many colours as a person tells apart in it: a quarter of the size."""
    made = io.BytesIO()
    image = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    image.thumbnail((WIDEST, WIDEST))
    image.quantize(COLOURS, dither=Image.Dither.NONE).save(made, "png", optimize=True)
    return base64.b64encode(made.getvalue()).decode()


if __name__ == "__main__":
    os.environ |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    for name in sys.argv[1:] or sorted(map(str, Path(__file__).parent.glob("*.ipynb"))):
        print(f"Running {name} ...", flush=True)
        nbformat.write(executed(Path(name)), name)
