"""The bytes of an open file, read on request and never mapped: a file truncated meanwhile is an
error, while touching a map of it would end the process by SIGBUS."""

import os

import numpy as np

from ..errors import FileChangedError, OutOfMemory
from ..messages import show_bytes, shown_path


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
        try:
            data = memoryview(np.empty(max(0, stop - start), np.uint8))
        except MemoryError:
            raise OutOfMemory(
                f"{self.path}: {show_bytes(stop - start)} do not fit the memory"
            ) from None
        done = 0
        while done < len(data):
            n = os.preadv(self.fd, [data[done:]], start + done)
            if n == 0:
                raise FileChangedError(
                    f"{self.path}: was cut short while it was read; read it again"
                )
            done += n
        return data
