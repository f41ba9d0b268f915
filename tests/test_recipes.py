"""The recipes of docs/files.md for other programs, run as printed: each must read the bits of a file."""

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import llamaprobe as lp

DOCS = Path(__file__).parent.parent / "docs/files.md"
FILE = "out/x_layer0.csv"

# Other languages than Python: a program, and how it saves x as float64, its size first.
INTERPRETERS = {
    "r": (
        ["Rscript", "--vanilla", "-e"],
        'out <- file("x.bin", "wb"); writeBin(as.double(c(dim(x), t(x))), out); close(out)',
    ),
    "octave": (
        ["octave-cli", "--no-init-file", "--eval"],
        'out = fopen("x.bin", "w"); fwrite(out, [size(x), x\'(:)\'], "double"); fclose(out);',
    ),
}


def recipes():
    """(name, language, code) of each block in the section on other programs."""
    section = DOCS.read_text().split("\n## Other programs\n")[1].split("\n## ")[0]
    found = []
    for part in section.split("\n### ")[1:]:
        blocks = re.findall(r"```(\w+)\n(.*?)```", part, re.DOTALL)
        found += [(f"{part.splitlines()[0]} {i}", *block) for i, block in enumerate(blocks)]
    return found


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with the run in `out`, and the same without first lines in `bare`."""
    folder = tmp_path_factory.mktemp("recipes")
    run = lp.load("demo").run("Once upon a time", points=["x", "scores", "logits"])
    run["x"][0, 1, :5] = [np.nan, np.inf, 1e-45, 3.4028235e38, -0.0]
    run.save(folder / "out")
    run.save(folder / "bare", header=False)
    return folder, run


def run_block(folder, language, code):
    """The matrix x that a block of code ends with. Skips where the program is missing."""
    if language == "python":
        for module in re.findall(r"^import (\w+)", code, re.MULTILINE):
            if importlib.util.find_spec(module) is None:
                pytest.skip(f"{module} is not installed")
        code += "\nimport numpy\nnumpy.save('x.npy', x)\n"
        subprocess.run([sys.executable, "-c", code], cwd=folder, check=True)
        return np.load(folder / "x.npy")
    command, show = INTERPRETERS[language]
    if not shutil.which(command[0]):
        pytest.skip(f"{command[0]} is not installed")
    subprocess.run([*command, f"{code}\n{show}"], cwd=folder, check=True)
    n_rows, n_cols, *numbers = np.fromfile(folder / "x.bin")
    return np.reshape(numbers, (int(n_rows), int(n_cols)))


def test_the_docs_have_recipes():
    names = {name.rsplit(" ", 1)[0] for name, _, _ in recipes()}
    assert {"NumPy", "pandas", "Polars", "DuckDB", "R", "Octave, MATLAB"} <= names


@pytest.mark.parametrize(("name", "language", "code"), recipes(), ids=[r[0] for r in recipes()])
def test_a_recipe_reads_the_bits_of_the_file(saved, name, language, code):
    folder, run = saved
    assert FILE in code
    for file, value in [
        (FILE, run["x", 0]),
        ("out/x_layer3.csv", run["x", 3]),
        ("out/scores_layer1.csv", run["scores", 1].reshape(-1, len(run))),  # with -inf
        *([("out/logits.csv", run["logits"])] if "read.csv" not in code else []),
    ]:
        x = run_block(folder, language, code.replace(FILE, file))
        assert x.shape == value.shape
        x = np.asarray(x, np.float32)
        assert np.array_equal(x, value, equal_nan=True)
        assert np.array_equal(np.signbit(x) | np.isnan(x), np.signbit(value) | np.isnan(value))


def test_files_without_a_first_line_are_plain_tables(saved):
    folder, run = saved
    x = np.loadtxt(folder / "bare/x_layer3.csv", delimiter=",", dtype=np.float32, comments=None)
    assert np.array_equal(x, run["x", 3])
    assert (folder / "bare/position_ids.csv").read_text() == "0,1,2,3,4\n"
    assert lp.read_run(folder / "bare").equals(run)
