"""The repositories, faults and recorded requests of the fake hub."""

import dataclasses
import hashlib
import threading
from collections.abc import Mapping

LARGE = 1 << 20


def git_sha1(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@dataclasses.dataclass
class FakeRepo:
    """One model. `commits` maps a commit to its files, `refs` a branch to a commit."""

    files: Mapping[str, bytes]
    commit: str = ""
    gated: bool = False
    private: bool = False
    disabled: bool = False
    moved_to: str | None = None
    extra_entries: list[dict] = dataclasses.field(default_factory=list)
    """More entries for the tree listing, as they are."""

    def __post_init__(self) -> None:
        self.commits: dict[str, dict[str, bytes]] = {}
        self.refs: dict[str, str] = {}
        self.update(self.files, self.commit)

    def update(self, files: Mapping[str, bytes], commit: str = "", branch: str = "main") -> str:
        """A new commit on a branch."""
        self.files = dict(files)
        text = "".join(
            f"{path}:{hashlib.sha256(data).hexdigest()}" for path, data in sorted(files.items())
        )
        self.commit = commit or hashlib.sha1(text.encode()).hexdigest()
        self.commits[self.commit] = dict(files)
        self.refs[branch] = self.commit
        return self.commit

    def entry(self, path: str, data: bytes) -> dict:
        """As the tree listing shows a file."""
        if not is_large(path, data):
            return {"type": "file", "oid": git_sha1(data), "size": len(data), "path": path}
        sha256 = hashlib.sha256(data).hexdigest()
        pointer = f"version 1\noid sha256:{sha256}\nsize {len(data)}\n".encode()
        lfs = {"oid": sha256, "size": len(data), "pointerSize": len(pointer)}
        return {
            "type": "file",
            "oid": git_sha1(pointer),
            "size": len(data),
            "lfs": lfs,
            "path": path,
        }


def is_large(path: str, data: bytes) -> bool:
    return path.endswith(".safetensors") or len(data) >= LARGE


@dataclasses.dataclass
class Fault:
    """What goes wrong, where, and how often."""

    kind: str
    """drop, reset, stall, no-length, ignore-range, wrong-start, wrong-total, flip, etag, status,
    html, redirect, silent (no answer at all), big-error, gzip, long, header (sets or, with None,
    removes headers), body (other bytes)."""
    where: str = "cdn"
    """cdn, resolve or api."""
    path: str = "*"
    """A glob over the path of the request."""
    method: str = "*"
    times: int = 1
    until: threading.Event | None = None
    """Ends a stall; None: the end of the test does."""
    after: int = 0
    """Bytes that are sent before it happens."""
    status: int = 503
    headers: dict = dataclasses.field(default_factory=dict)
    location: str = ""
    body: bytes = b""


@dataclasses.dataclass
class Seen:
    """One request."""

    where: str
    method: str
    path: str
    headers: dict[str, str]
    sent: int = 0
    """Bytes of the body that went out."""
