"""The table of bad inputs: nothing crashes, hangs, allocates by a stranger's number or leaves a file.

Each case is tried in a child process first, with bounded time and memory, and then here, where
sanitizers and coverage see it. A refusal is one printable line of the class that the case names, and
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
CASES: list[BadInput] = [
    case for family in (weights_file, index, config, prompt, output, runtime) for case in family.CASES
]
BROKEN_FILES = [case for case in weights_file.CASES if case.use is weights_file.open_both
                and isinstance(case.outcome, Refusal)]


def name_of(case: BadInput) -> str:
    return f"{case.number} {case.name}"


def check(case: BadInput, value: object, error: type[BaseException] | None, message: str) -> None:
    if not isinstance(case.outcome, Refusal):
        assert error is None, f"refused: {message}"
        assert value == case.outcome
        return
    assert error is not None, f"accepted: {value}"
    expected, fact, file = case.outcome
    assert issubclass(error, expected), f"{error.__name__}: {message}"
    assert issubclass(expected, UnsupportedError) or not issubclass(error, UnsupportedError), message
    assert re.search(fact, message) and file in message, message
    assert message.isprintable() and len(message) < 700, message


def attempt(case: BadInput, thing: object) -> tuple[object, type[BaseException] | None, str]:
    """The outcome; no exception, and nothing that one holds, outlives the call."""
    try:
        return case.use(thing), None, ""
    except (Exception, KeyboardInterrupt) as e:
        return None, type(e), str(e)


def open_descriptors() -> list[str]:
    return os.listdir("/dev/fd")


def contents(folder: Path) -> set[str]:
    return {str(path) for path in folder.rglob("*")}


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_bad_input(case: BadInput, tmp_path: Path):
    thing = case.make(tmp_path)
    before = contents(tmp_path)
    check(case, *in_child(lambda: case.use(thing))[:3])
    descriptors = open_descriptors()
    check(case, *attempt(case, thing))
    if open_descriptors() != descriptors:  # a cycle may hold some for a while
        gc.collect()
    assert open_descriptors() == descriptors
    assert case.adds_files or contents(tmp_path) == before


@pytest.mark.parametrize("case", BROKEN_FILES, ids=name_of)
def test_the_command_line_refuses_in_one_line(case: BadInput, tmp_path: Path):
    path = str(case.make(tmp_path))
    commands = [["inspect", path], ["inspect", path, "--json"], ["weights", path, "--list"]]
    ended = in_child(lambda: [cli.main(command) for command in commands])
    assert (ended.value, ended.error, ended.stdout) == ([1] * len(commands), None, "")
    assert ended.stderr.count("\n") == len(commands)
    for line in ended.stderr.splitlines():
        assert line.startswith("llamaprobe: ") and line.isprintable() and weights_file.FILE in line


# ---- the table itself ----


def test_every_number_has_a_case():
    numbers = {case.number for case in CASES} | set(WHERE)
    assert numbers == {f"{n:02}" for n in range(1, 99)}


def test_no_case_is_listed_twice():
    assert [name for name, n in Counter(map(name_of, CASES)).items() if n > 1] == []


def test_tests_listed_elsewhere_exist():
    for number, tests in WHERE.items():
        for node in tests:
            file, _, name = node.partition("::")
            found = {item.name for item in ast.parse((TESTS / file).read_text()).body
                     if isinstance(item, ast.FunctionDef)}
            assert name in found, f"{number}: {node}"
