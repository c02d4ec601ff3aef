"""Run the notebooks from start to end and keep their outputs: `python notebooks/run.py [NAME ...]`.

Each runs in a folder of its own, so that nothing is left in the repository but the outputs. Fails on the first error.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).parent
ORDER = ("data_preparation", "train")
_VOLATILE = ("execution", "language_info", "widgets")


def run(name: str, folder: Path) -> None:
    """Execute one notebook in `folder` and write it back with its outputs."""
    path = HERE / f"{name}.ipynb"
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(
        notebook, timeout=900, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    ).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
    for key in _VOLATILE:
        notebook.metadata.pop(key, None)
    nbformat.write(notebook, path)
    print(f"{name}: {sum(cell.cell_type == 'code' for cell in notebook.cells)} code cells ran")


def main() -> None:
    """Run the named notebooks, or all, in one shared folder: the second goes on where the first ended."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("PYTHONWARNINGS", "ignore:IProgress not found")  # tqdm misses its notebook widgets
    with tempfile.TemporaryDirectory() as folder:
        for name in sys.argv[1:] or ORDER:
            run(name, Path(folder))


if __name__ == "__main__":
    main()
