"""The table of bad inputs: nothing crashes, hangs, allocates by a stranger's number or leaves a file.

Each row is tried in a child process first, with bounded time and memory, and then here, where
sanitizers and coverage see it. A refusal is one printable line of the class that the row names, and
names the file and the fact.
"""

import ast
import gc
import os
import re
from collections import Counter
from pathlib import Path

import pytest
from bad_inputs import BadInput, Refusal, config, index, output, prompt, runtime, weights_file
from bad_inputs.child import in_child
from bad_inputs.elsewhere import WHERE

from llamaprobe import UnsupportedError
from llamaprobe.cli import main as cli

TESTS = Path(__file__).parent
ROWS: list[BadInput] = [
    row for family in (weights_file, index, config, prompt, output, runtime) for row in family.ROWS
]
BROKEN_FILES = [row for row in weights_file.ROWS if row.use is weights_file.open_both
                and isinstance(row.outcome, Refusal)]


def name_of(row: BadInput) -> str:
    return f"{row.number} {row.name}"


def check(row: BadInput, value: object, error: type[BaseException] | None, message: str) -> None:
    if not isinstance(row.outcome, Refusal):
        assert error is None, f"refused: {message}"
        assert value == row.outcome
        return
    assert error is not None, f"accepted: {value}"
    wanted, fact, file = row.outcome
    assert issubclass(error, wanted), f"{error.__name__}: {message}"
    assert issubclass(wanted, UnsupportedError) or not issubclass(error, UnsupportedError), message
    assert re.search(fact, message) and file in message, message
    assert message.isprintable() and len(message) < 700, message


def attempt(row: BadInput, thing: object) -> tuple[object, type[BaseException] | None, str]:
    """What came of it; no exception, and nothing that one holds, outlives the call."""
    try:
        return row.use(thing), None, ""
    except (Exception, KeyboardInterrupt) as e:
        return None, type(e), str(e)


def open_descriptors() -> list[str]:
    return os.listdir("/proc/self/fd")


def contents(folder: Path) -> set[str]:
    return {str(path) for path in folder.rglob("*")}


@pytest.mark.parametrize("row", ROWS, ids=name_of)
def test_bad_input(row: BadInput, tmp_path: Path):
    thing = row.make(tmp_path)
    before = contents(tmp_path)
    check(row, *in_child(lambda: row.use(thing))[:3])
    descriptors = open_descriptors()
    check(row, *attempt(row, thing))
    if open_descriptors() != descriptors:  # a cycle may hold some for a while
        gc.collect()
    assert open_descriptors() == descriptors
    assert row.adds_files or contents(tmp_path) == before


@pytest.mark.parametrize("row", BROKEN_FILES, ids=name_of)
def test_the_command_line_refuses_in_one_line(row: BadInput, tmp_path: Path):
    path = str(row.make(tmp_path))
    commands = [["inspect", path], ["inspect", path, "--json"], ["weights", path, "--list"]]
    ended = in_child(lambda: [cli.main(command) for command in commands])
    assert (ended.value, ended.error, ended.stdout) == ([1] * len(commands), None, "")
    assert ended.stderr.count("\n") == len(commands)
    for line in ended.stderr.splitlines():
        assert line.startswith("llamaprobe: ") and line.isprintable() and weights_file.FILE in line


# ---- the table itself ----


def test_every_number_of_the_list_is_there():
    numbers = {row.number for row in ROWS} | set(WHERE)
    assert numbers == {f"{n:02}" for n in range(1, 99)}


def test_no_row_is_there_twice():
    assert [name for name, n in Counter(map(name_of, ROWS)).items() if n > 1] == []


def test_what_stands_elsewhere_is_there():
    for number, tests in WHERE.items():
        for node in tests:
            file, _, name = node.partition("::")
            found = {item.name for item in ast.parse((TESTS / file).read_text()).body
                     if isinstance(item, ast.FunctionDef)}
            assert name in found, f"{number}: {node}"
