"""Retries after transient failures: a full disk, a busy store."""

import random
import time
from collections.abc import Callable
from typing import TypeVar

from .. import log

Found = TypeVar("Found")

WAITS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
"""Seconds before each further attempt, plus up to half as much again at random, so that many
workers do not retry at once."""


def retry(call: Callable[[], Found], may_pass: Callable[[Exception], bool]) -> Found:
    """The result of a call, which is repeated after each of WAITS while it fails with an error that
    may pass. Raises the last error."""
    for wait in WAITS:
        try:
            return call()
        except Exception as error:
            if not may_pass(error):
                raise
            pause = wait * random.uniform(1, 1.5)
            log.warning("trying again in %.1f s: %s", pause, error)
        time.sleep(pause)
    return call()
