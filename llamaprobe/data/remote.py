"""A harvest on an object store, through fsspec (the extra `remote`).

A store needs no rename, no lock, no conditional write and no listing: a file is made on this
machine and uploaded by one PUT under its final name, and the sidecar of a shard comes after its
files. Two writers of a shard put equal bytes. What is read is downloaded whole and compared with
its sha256.
"""

import contextlib
import errno
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

from ..errors import ArgumentError, Error, FileError, FileMissingError, FormatError
from ..files.atomic import atomic_open
from ..files.paths import checked_path
from ..messages import printable
from .file_hash import hash_unchanged
from .folder import Folder
from .patience import retry

Found = TypeVar("Found")

# Errors that a retry cannot fix.
_FINAL = (
    *(FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError),
    *(NotImplementedError, TypeError, ValueError, MemoryError, ImportError),
)
# Other stores have no folders to create, or would create a bucket from a mistyped name.
_WITH_FOLDERS = {"file", "local", "sftp", "ssh", "smb", "hdfs", "webhdfs"}
_CHUNK = 1 << 20


class RemoteFolder(Folder):
    """A folder on a store. `path` is the local folder of copies: `cache`, or a temporary one."""

    is_remote = True

    def __init__(self, url: str, cache: str | os.PathLike[str] | None = None) -> None:
        """Raises ArgumentError without fsspec, and for an unknown protocol."""
        self._url, self._cache = url, cache
        fsspec = _fsspec(url)
        options: dict[str, Any] = {} if "::" in url else {"use_listings_cache": False}
        try:
            self._store, self._root = fsspec.core.url_to_fs(url, **options)
        except (ValueError, ImportError) as error:
            raise ArgumentError(f"{printable(url)}: {printable(str(error))}") from None

    @cached_property
    def _temporary(self) -> tempfile.TemporaryDirectory[str]:
        """Removed when this object is garbage-collected, or when the process ends."""
        return tempfile.TemporaryDirectory(prefix="llamaprobe-")

    @cached_property
    def path(self) -> Path:  # type: ignore[override]
        if self._cache is None:
            return Path(self._temporary.name)
        folder = checked_path(self._cache) / hashlib.sha256(self._url.encode()).hexdigest()[:16]
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @property
    def place(self) -> str:
        return self._url

    def at(self, name: str) -> str:
        return f"{self._url}/{name}"

    def shown(self, name: str = "") -> str:
        return printable(self.at(name) if name else self._url, 1000)

    def has(self, name: str) -> bool:
        return self.size(name) is not None

    def size(self, name: str) -> int | None:
        try:
            return int(self._call(name, lambda: self._store.info(self._key(name))["size"]))
        except FileMissingError:
            return None

    def read(self, name: str, max_bytes: int) -> bytes:
        data: bytes = self._call(name, lambda: self._store.cat_file(self._key(name)))
        if len(data) > max_bytes:
            raise FormatError(f"{self.shown(name)}: over {max_bytes} bytes")
        return data

    def local(self, name: str, sha256: str | None = None) -> Path:
        path = self.path / name
        if sha256 is None or not os.path.lexists(path) or hash_unchanged(path) != sha256:
            self._download(name, path, sha256)
        return path

    @contextlib.contextmanager
    def fresh(self, name: str) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="llamaprobe-") as folder:
            path = Path(folder) / os.path.basename(name)
            self._download(name, path, None)
            yield path

    def names(self, folder: str) -> list[str]:
        try:
            found = self._call(folder, lambda: self._store.ls(self._key(folder), detail=False))
        except FileError:
            return []
        return [str(name).rstrip("/").rpartition("/")[2] for name in found]

    def commit(self, names: Iterable[str]) -> None:
        for name in names:
            self._call(name, lambda name=name: self._upload(name))  # type: ignore[misc]

    def write_json(self, name: str, value: dict[str, Any]) -> None:
        super().write_json(name, value)
        self.commit([name])

    def release(self, names: Iterable[str]) -> None:
        for name in names if self._cache is None else ():
            with contextlib.suppress(OSError):
                os.unlink(self.path / name)

    def remove(self, name: str) -> int:
        size = self.size(name)
        if size is not None:
            with contextlib.suppress(FileMissingError):
                self._call(name, lambda: self._store.rm_file(self._key(name)))
        return size or 0

    def _key(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _upload(self, name: str) -> None:
        """One PUT. It counts as failed if the store has fewer bytes than were sent."""
        source, target = str(self.path / name), self._key(name)
        try:
            self._store.put_file(source, target)
        except FileNotFoundError:
            protocols = self._store.protocol
            protocols = (protocols,) if isinstance(protocols, str) else protocols
            if not _WITH_FOLDERS & set(protocols):
                raise
            self._store.makedirs(target.rpartition("/")[0], exist_ok=True)
            self._store.put_file(source, target)
        size, kept = os.path.getsize(source), self._store.info(target)["size"]
        if kept != size:
            raise OSError(f"{size} bytes were uploaded, but the store has {kept}")

    def _download(self, name: str, path: Path, sha256: str | None) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)

        def download() -> None:
            digest = hashlib.sha256()
            with atomic_open(path) as copy, self._store.open(self._key(name), "rb") as file:
                while data := file.read(_CHUNK):
                    digest.update(data)
                    copy.write(data)
            size, there = os.path.getsize(path), self._store.info(self._key(name))["size"]
            if size != there:
                raise OSError(f"{size} bytes of {there} were read")
            if sha256 is not None and digest.hexdigest() != sha256:
                raise FormatError(f"{self.shown(name)}: does not have the sha256 {sha256[:12]}...")

        self._call(name, download)

    def _call(self, name: str, call: Callable[[], Found]) -> Found:
        """Call with retries while the store may recover. FileError, which names the file."""
        try:
            return retry(call, lambda error: not isinstance(error, _FINAL))
        except Error:
            raise
        except Exception as error:
            code = error.errno if isinstance(error, OSError) else None
            code = errno.ENOENT if isinstance(error, FileNotFoundError) else code
            reason = printable(" ".join(str(error).split()) or type(error).__name__, 200)
            raise FileError(f"{self.shown(name)}: {reason}", code, self._key(name)) from error


def _fsspec(url: str) -> Any:
    try:
        import_module("fsspec.core")
        return import_module("fsspec")
    except ImportError:
        raise ArgumentError(
            f"{printable(url)}: needs fsspec: pip install 'llamaprobe[remote]', and the package of"
            " the store, such as s3fs or gcsfs"
        ) from None
