"""Runs the notebooks of examples/notebooks on the demo model and writes them back with their outputs.

    python tools/run_notebooks.py [NOTEBOOK ...]

Needs the extra `notebook`. What changes from run to run (execution times, ids of cells) is left out.
"""

import sys
from pathlib import Path
from typing import Any

NOTEBOOKS = Path(__file__).parent.parent / "examples" / "notebooks"
_TIMEOUT = 300  # seconds for one cell


def run(path: Path, folder: Path) -> Any:
    """The notebook after it ran in `folder`, as nbformat has it. nbclient's CellExecutionError."""
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=_TIMEOUT,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
    )
    client.execute()
    for number, cell in enumerate(notebook.cells):
        cell.id, cell.metadata = f"cell-{number}", {}
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook.metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return notebook


def main() -> None:
    import tempfile

    import nbformat

    for path in map(Path, sys.argv[1:] or sorted(NOTEBOOKS.glob("*.ipynb"))):
        with tempfile.TemporaryDirectory() as folder:
            nbformat.write(run(path, Path(folder)), path)
        print(path)


if __name__ == "__main__":
    main()
