"""The one logger, `llamaprobe`: what was found where, what was tried again, what was warned about.

    logging.basicConfig(level=logging.INFO)    # in the program that wants to see it
    logging.getLogger("llamaprobe").setLevel(logging.DEBUG)

INFO: where a model, its tokenizer and its template were found. DEBUG: what a run was given.
WARNING: what `warnings` says too, and tries that failed. Nothing is shown unless the program sets
logging up: llamaprobe adds no handler but a NullHandler, and makes no record before some module has
imported `logging`. No token is ever in a record.
"""

import sys
import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from logging import Logger


def logger() -> "Logger":
    """The logger `llamaprobe`."""
    import logging

    found = logging.getLogger("llamaprobe")
    if not found.handlers:
        found.addHandler(logging.NullHandler())
    return found


def info(message: str, *args: object) -> None:
    """A record, where `logging` is loaded: else the program has not set it up."""
    if "logging" in sys.modules:
        logger().info(message, *args)


def debug(message: str, *args: object) -> None:
    """The same, in more detail."""
    if "logging" in sys.modules:
        logger().debug(message, *args)


def warning(message: str, *args: object) -> None:
    """A record of what went wrong and was mended, such as a try that failed."""
    if "logging" in sys.modules:
        logger().warning(message, *args)


def warn(message: str, stacklevel: int = 2) -> None:
    """A warning for the program's author, and a record for its log."""
    warnings.warn(message, stacklevel=stacklevel + 1)
    warning("%s", message)
