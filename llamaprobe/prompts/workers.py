"""The child processes of one batch of prompts."""

import contextlib
import threading
from collections.abc import Callable

from . import sandbox


class Workers:
    """The Workers of one batch, each started at first use; a context manager."""

    def __init__(self, check: Callable[[], object] | None = None) -> None:
        """`check`: as for a Worker."""
        self._check = check
        self._workers: list[tuple[str, dict, sandbox.Worker]] = []
        self._lock = threading.Lock()

    def call(
        self,
        script: str,
        prepare: dict,
        request: dict,
        *,
        packages: tuple[str, ...],
        limits: sandbox.Limits,
    ) -> object:
        """As `sandbox.call`, in the Worker with an equal `prepare`."""
        with self._lock:
            found = (w for name, made, w in self._workers if name == script and made == prepare)
            worker = next(found, None)
            if worker is None:
                worker = sandbox.Worker(
                    script, prepare, packages=packages, limits=limits, check=self._check
                )
                self._workers.append((script, prepare, worker))
        return worker.answer(request)

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *exc: object) -> None:
        with contextlib.ExitStack() as stack:  # close all, also when one is interrupted
            for _, _, worker in self._workers:
                stack.callback(worker.close)
