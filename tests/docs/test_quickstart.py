"""The notebook docs/quickstart.ipynb runs from top to bottom, and keeps the outputs of that."""

import nbformat
import pytest
from nbclient import NotebookClient

from tests.support import page

NOTEBOOK = page.ROOT / "docs" / "quickstart.ipynb"


def outputs(notebook):
    """Returns the kinds of each cell's outputs, without TensorFlow's messages on stderr."""
    return [
        [output.output_type for output in cell.outputs if output.get("name") != "stderr"]
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]


@pytest.mark.slow
@pytest.mark.data
def test_every_cell_runs(tmp_path):
    notebook = nbformat.read(NOTEBOOK, 4)
    kept = outputs(notebook)
    executed = NotebookClient(
        notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    assert outputs(executed) == kept
    assert (tmp_path / "model.onnx").is_file(), "verified, else it has another name"


def test_what_it_keeps():
    notebook = nbformat.read(NOTEBOOK, 4)
    nbformat.validate(notebook)
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert "verified" in text
    for trace in ("/work", "/tmp", "/home", "/root", "Traceback", "WARNING"):
        assert trace not in text
