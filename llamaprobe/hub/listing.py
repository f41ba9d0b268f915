"""What a repository holds at one commit: names, sizes, etags. Also how such a listing is kept on
disk.

On disk it has the form of the hub's own client, whose listings are read too: the hub is not asked
again for what is known. A listing of a commit never changes. One that cannot be believed is as good
as none.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import HubError
from .errors import MetadataError
from .names import check_entry, is_etag

MAX_LISTING = 64 << 20  # bytes of the file
_MAX_SIZE = 1 << 50
_VERSION = 1


@dataclass(frozen=True)
class RepoFile:
    """One file of a repository."""

    path: str
    size: int
    blob_id: str
    """Git's sha1 of what git stores: the file, or a pointer to it."""
    sha256: str | None = None
    """Of the file itself, for those that git does not store."""
    xet_hash: str | None = None

    @property
    def etag(self) -> str:
        """What the hub calls it, and the name of its blob in the cache: the sha256, or git's sha1
        of a small file."""
        return self.sha256 or self.blob_id


Listing = Mapping[str, RepoFile]


def from_api(entry: Any, asked: str) -> RepoFile | None:
    """A file from one entry of the hub's tree listing; None for a folder. UnsafeNameError,
    MetadataError."""
    if not isinstance(entry, dict):
        raise MetadataError(f"{asked}: the hub's list of files holds something that is no file")
    path = check_entry(entry.get("path"))
    if entry.get("type") != "file":
        return None
    lfs = entry.get("lfs")
    large = lfs if isinstance(lfs, dict) else {}
    return _file(
        path,
        entry.get("size"),
        entry.get("oid"),
        large.get("oid"),
        large.get("size"),
        entry.get("xetHash"),
        asked,
    )


def parse(data: bytes) -> Listing | None:
    """The listing in a `<commit>.json`; None if it is not to be believed."""
    try:
        value = json.loads(data.decode("utf-8"))
        if value["format_version"] != _VERSION:
            return None
        return {
            check_entry(path): _file(
                path,
                e["size"],
                e["blob_id"],
                e.get("lfs_sha256"),
                e.get("lfs_size"),
                e.get("xet_hash"),
                "",
            )
            for path, e in value["files"].items()
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, HubError):
        return None


def serialize(listing: Listing) -> bytes:
    """The bytes of a `<commit>.json`."""
    files: dict[str, dict[str, Any]] = {}
    for path in sorted(listing):
        file = listing[path]
        files[path] = {"size": file.size, "blob_id": file.blob_id}
        if file.sha256:
            files[path] |= {"lfs_sha256": file.sha256, "lfs_size": file.size}
        if file.xet_hash:
            files[path]["xet_hash"] = file.xet_hash
    return json.dumps({"format_version": _VERSION, "files": files}, indent=1).encode()


def _file(
    path: str, size: Any, blob_id: Any, sha256: Any, lfs_size: Any, xet_hash: Any, asked: str
) -> RepoFile:
    if sha256 is not None and type(lfs_size) is int:
        size = lfs_size if size in (lfs_size, None) else None
    if type(size) is not int or not 0 <= size <= _MAX_SIZE:
        raise MetadataError(f"{asked}: the hub gives no size, or two, for {path!r}")
    if not (is_etag(blob_id) and len(blob_id) == 40) or not (
        sha256 is None or (is_etag(sha256) and len(sha256) == 64)
    ):
        raise MetadataError(f"{asked}: the hub gives no usable hash for {path!r}")
    fine = is_etag(xet_hash) and len(xet_hash) == 64
    return RepoFile(path, size, blob_id, sha256, xet_hash if fine else None)
