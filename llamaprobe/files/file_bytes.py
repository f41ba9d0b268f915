"""The bytes of an open file, read where they are asked for and never mapped: a file that somebody
cuts short meanwhile is an error, while a map of it would end the process by SIGBUS."""

import os

import numpy as np

from ..messages import show_bytes, shown_path
from ..errors import FileChangedError, OutOfMemory


class FileBytes:
    """A regular file as a sequence of bytes: `len` is its size when it was opened, a slice (step 1)
    is a memoryview of its own. `fd` stays the caller's; `path` is for messages.

    A slice raises FileChangedError when the file has become shorter, OutOfMemory, OSError.
    """

    def __init__(self, fd: int, path: str | os.PathLike[str]) -> None:
        self.fd, self.path = fd, shown_path(path)
        self._size = os.fstat(fd).st_size

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, part: slice) -> memoryview:
        start, stop, _ = part.indices(self._size)
        n_bytes = max(0, stop - start)
        try:
            data = memoryview(np.empty(n_bytes, np.uint8))
        except MemoryError:
            raise OutOfMemory(f"{self.path}: {show_bytes(n_bytes)} do not fit the memory") from None
        if self.read_into(data, start) < n_bytes:
            raise FileChangedError(f"{self.path}: was cut short while it was read; read it again")
        return data

    def read_into(self, buffer: memoryview, start: int) -> int:
        """Fills the buffer with what lies at `start`, or as far as the file goes: how many
        bytes."""
        done = 0
        while done < len(buffer):
            n = os.preadv(self.fd, [buffer[done:]], start + done)
            if n == 0:
                break
            done += n
        return done
