"""Bad inputs, one table: the files of this folder list its cases, tests/test_bad_inputs.py tries them.

The numbers 01 to 98 are those of the project's list of bad inputs. A case says how the input is
made, what is done with it, and the expected outcome: an error of a certain class that names the
file and the fact, or, where the input is odd but valid, a value.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple


class Refusal(NamedTuple):
    """An error of this class and of no other kind of `llamaprobe.Error`."""

    error: type[Exception]
    fact: str
    """A regular expression that the message must match."""
    file: str = ""
    """What the message must name; "" where the fault is in an argument."""


class BadInput(NamedTuple):
    number: str
    name: str
    make: Callable[[Path], Any]
    """Makes it below an empty folder; returns what `use` takes."""
    use: Callable[[Any], Any]
    outcome: Any
    """A Refusal, or the value that `use` returns."""
    adds_files: bool = False
    """Whether `use` may leave files in the folder; a refusal never may."""
