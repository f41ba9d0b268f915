"""The place of a harvest as users give it: the path or URL of its folder or of its plan.json."""

import os

from ..files.paths import checked_path
from .folder import Folder
from .layout import PLAN
from .remote import RemoteFolder


def is_url(place: object) -> bool:
    """Whether this is a URL such as s3://bucket/out, not a path."""
    return isinstance(place, str) and "://" in place


def open_folder(
    place: "str | os.PathLike[str] | Folder", cache: str | os.PathLike[str] | None = None
) -> Folder:
    """The folder of a harvest, from its path or URL or from that of its plan.json. cache: a folder
    that keeps the files of a URL. ArgumentError, FileError."""
    if isinstance(place, Folder):
        return place
    if is_url(place):
        return RemoteFolder(str(place).removesuffix("/" + PLAN).rstrip("/"), cache)
    path = checked_path(place)
    return Folder(path.parent if path.name == PLAN and not os.path.isdir(path) else path)
