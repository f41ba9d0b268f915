"""Which files of a folder or a repository form one GGUF model: a file, or the parts of a split."""

import fnmatch
import re
from collections.abc import Iterable

from ..errors import ArgumentError
from ..messages import printable

SUFFIX = ".gguf"
_PART = re.compile(r"(.+)-([0-9]{5})-of-([0-9]{5})\.gguf", re.IGNORECASE)
_SHOWN = 20  # names in a message
_MOST_PARTS = 1000


def parts_of(name: str) -> list[str]:
    """The names of all parts of the split that `name` belongs to, in order; else just `name`."""
    found = _PART.fullmatch(name)
    n_parts = int(found[3]) if found else 1
    if not found or not 1 <= int(found[2]) <= n_parts <= _MOST_PARTS:
        return [name]
    tail = name[-len(SUFFIX) :]
    return [f"{found[1]}-{i:05d}-of-{found[3]}{tail}" for i in range(1, n_parts + 1)]


def choose(names: Iterable[str], file: str | None, where: str) -> str | None:
    """The first part of the one model among `names`, which are paths below `where`. None if there
    is no model and `file` is None.

    file: the path, the name, or a glob over either. Without it, image encoders (mmproj) and files
    in subfolders do not count. Raises ArgumentError, which lists the candidates, unless exactly one
    model is left.
    """
    models = sorted({parts_of(name)[0] for name in names if name.lower().endswith(SUFFIX)})
    plain = [name for name in models if "/" not in name and not _last(name).startswith("mmproj")]
    if file is None:
        found, fact = plain, f"holds {len(plain)} models in GGUF"
    else:
        found = _matching(models, file)
        fact = f"file {printable(repr(file))} matches {len(found) or 'none'} of the models in GGUF"
    if len(found) == 1:
        return found[0]
    if not found and file is None:
        return None
    shown = (
        ", ".join(printable(name, 120) for name in (found or models)[:_SHOWN]) or "there are none"
    )
    more = len(found or models) - _SHOWN
    raise ArgumentError(
        f"{where}: {fact}: {shown}{f' and {more} more' if more > 0 else ''}; choose one with file="
        " (--file GLOB)"
    )


def _matching(models: list[str], file: str) -> list[str]:
    wanted = parts_of(file)[0]
    exact = [name for name in models if wanted in (name, _last(name))]
    globbed = [
        name
        for name in models
        if any(fnmatch.fnmatchcase(each, file) or fnmatch.fnmatchcase(_last(each), file)
               for each in parts_of(name))
    ]  # fmt: skip
    plain = [name for name in globbed if not _last(name).startswith("mmproj")]
    return exact or plain or globbed


def _last(name: str) -> str:
    return name.rpartition("/")[2]
