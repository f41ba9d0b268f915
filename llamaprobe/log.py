"""The one logger, `llamaprobe`: files found, retries, warnings.

    logging.basicConfig(level=logging.INFO)    # in a program that shows its log
    logging.getLogger("llamaprobe").setLevel(logging.DEBUG)

INFO: where a model, its tokenizer and its template were found. DEBUG: the arguments of a run.
WARNING: as in `warnings`, and failed attempts. Nothing is shown unless the program configures
logging: llamaprobe adds only a NullHandler, and makes no record before some module has imported
`logging`. No record contains a hub token.
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
    """A record, if `logging` is loaded: else the program has not configured it."""
    if "logging" in sys.modules:
        logger().info(message, *args)


def debug(message: str, *args: object) -> None:
    """The same, in more detail."""
    if "logging" in sys.modules:
        logger().debug(message, *args)


def warning(message: str, *args: object) -> None:
    """A record of a fault that was overcome, such as a failed attempt."""
    if "logging" in sys.modules:
        logger().warning(message, *args)


def warn(message: str, stacklevel: int = 2) -> None:
    """A warning, and a record of it."""
    warnings.warn(message, stacklevel=stacklevel + 1)
    warning("%s", message)
