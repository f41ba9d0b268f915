"""What a download does, for the logger "llamaprobe": retries, waits, fallbacks, what was found
where. It holds no token, and no query of an address.

Nobody can have asked for it before `logging` was imported, so it is not imported for that.
"""

import sys


def info(message: str) -> None:
    _log("info", message)


def warning(message: str) -> None:
    _log("warning", message)


def _log(level: str, message: str) -> None:
    if "logging" not in sys.modules:
        return
    import logging

    logger = logging.getLogger("llamaprobe")
    if not logger.handlers:  # else a warning that nobody asked for would go to stderr
        logger.addHandler(logging.NullHandler())
    getattr(logger, level)("%s", message)
