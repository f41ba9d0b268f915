"""The float32 numbers of a text file, read a piece at a time: each thread has a buffer that stays in
its cache, and the text is never in memory as a whole.

This is for plain rows, as we write them. What else is allowed, or wrong, is for the reader of whole
texts to understand.
"""

import threading

import numpy as np

from .. import _core
from .file_bytes import FileBytes

_PIECE = 1 << 20
_MIN_PIECES = 4  # less is not worth the threads


def read_rows(file: FileBytes, start: int, values: np.ndarray, sep: str) -> bool:
    """Fills float32 `values` [any number] with the rows from byte `start` on. False, and values are
    not to be used, when that is no text of plain rows, with nothing between them, that hold as many
    numbers: the reader of whole texts says what it is. Raises OSError."""
    if len(file) - start < _MIN_PIECES * _PIECE:
        return False
    from concurrent.futures import ThreadPoolExecutor  # which loads logging

    work = _Work(file, start, values, sep)
    n_threads = _core.cores()
    pool = ThreadPoolExecutor(n_threads)
    try:
        for done in [pool.submit(work.run) for _ in range(n_threads)]:
            done.result()
    finally:
        work.is_plain, is_plain = False, work.is_plain  # Ctrl-C: the others end too
        pool.shutdown()
    return is_plain and work.row * work.n_cols == values.size


class _Work:
    """Pieces of whole rows, given out in order."""

    def __init__(self, file: FileBytes, start: int, values: np.ndarray, sep: str) -> None:
        self.is_plain, self.n_cols, self.row = True, 0, 0
        self._file, self._at, self._values, self._sep = file, start, values, sep.encode()
        self._lock = threading.Lock()

    def run(self) -> None:
        """Reads piece after piece, until there is none or something is not plain."""
        buffer = bytearray(_PIECE)
        while self.is_plain:
            with self._lock:
                n_bytes, first, n_rows = self._take(buffer)
            if n_bytes == 0:
                return
            part = self._values[first * self.n_cols : (first + n_rows) * self.n_cols]
            text = memoryview(buffer)[:n_bytes]
            if part.size != n_rows * self.n_cols or _core.parse_floats(
                part, text, 0, self._sep.decode(), 1
            ):
                self.is_plain = False

    def _take(self, buffer: bytearray) -> tuple[int, int, int]:
        """Reads the next piece: its bytes (0: there is none), the number of its first row, rows."""
        n_read = self._file.read_into(memoryview(buffer), self._at)
        is_last = self._at + n_read >= len(self._file)
        n_bytes = n_read if is_last else buffer.rfind(b"\n", 0, n_read) + 1
        end = buffer.find(b"\n", 0, n_bytes)  # the last row may have none
        if n_bytes == 0 or not self._is_row(bytes(buffer[: n_bytes if end < 0 else end])):
            self.is_plain = self.is_plain and is_last and n_read == 0
            return 0, 0, 0
        n_rows = int(np.count_nonzero(np.frombuffer(buffer, np.uint8, n_bytes) == ord("\n")))
        n_rows += buffer[n_bytes - 1] != ord("\n")
        first = self.row
        self._at, self.row = self._at + n_bytes, first + n_rows
        return n_bytes, first, n_rows

    def _is_row(self, line: bytes) -> bool:
        """Whether a line looks like a row as long as the first one. With that a piece of as many
        numbers as it has lines has nothing between its rows."""
        n_cols = line.count(self._sep) + 1
        self.n_cols = self.n_cols or n_cols
        return n_cols == self.n_cols and b"#" not in line and bool(line.strip())
