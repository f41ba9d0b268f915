"""Models from the hub: resumable, verified to the last bit, and no token where it does not belong.

    from llamaprobe.hub import download
    folder = download("meta-llama/Llama-3.2-1B-Instruct")

One room per question. Which names may become paths: names.py. What the environment says:
settings.py. Who gets the token, which redirect is followed: client.py, origin.py. What the hub has:
repo.py, listing.py. Which files: selection.py. Where they go: store.py, cache_store.py,
local_store.py, folder.py, lock.py. Their bytes: transfer.py, partial.py. In which order: fetch.py,
work.py. Is it still right: check.py. What is there, without fetching it: remote.py. Nothing here
imports `requests` until the hub has to be asked.
"""

from .errors import (
    CaptivePortalError,
    ChecksumError,
    DisabledError,
    DiskFullError,
    EntryNotFoundError,
    GatedError,
    MetadataError,
    NetworkError,
    OfflineError,
    RedirectError,
    RepoNotFoundError,
    RevisionNotFoundError,
    ServerError,
    TokenError,
    TransferError,
    UnsafeNameError,
)
from .fetch import download, plan, snapshot

__all__ = [
    "CaptivePortalError",
    "ChecksumError",
    "DisabledError",
    "DiskFullError",
    "EntryNotFoundError",
    "GatedError",
    "MetadataError",
    "NetworkError",
    "OfflineError",
    "RedirectError",
    "RepoNotFoundError",
    "RevisionNotFoundError",
    "ServerError",
    "TokenError",
    "TransferError",
    "UnsafeNameError",
    "download",
    "plan",
    "snapshot",
]
