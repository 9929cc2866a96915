"""Every notebook is committed without outputs; that it runs is tested with the site."""

import pathlib

import nbformat
import pytest

NOTEBOOKS = sorted((pathlib.Path(__file__).parents[1] / "notebooks").rglob("*.ipynb"))
for_each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


@for_each
def test_notebook_is_committed_without_outputs(path):
    notebook = nbformat.read(path, as_version=nbformat.NO_CONVERT)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert notebook.metadata.kernelspec.name == "python3"
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not [cell.id for cell in code if cell.outputs or cell.execution_count is not None]


def test_there_are_notebooks():
    assert NOTEBOOKS
