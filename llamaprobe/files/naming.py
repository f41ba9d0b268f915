"""Tensor names -> file names that are safe on every system.

A plain name (letters, digits, `.`, `_`, `-`; at most 200 of them) stays as it is, because people
have code for `model.layers.0.self_attn.q_proj.weight.csv`. Any other becomes percent-encoded UTF-8;
a long one is cut and ends in `~` and 12 hex digits of its sha256, and so do names that differ only
in case. The manifest maps every file back to its tensor.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable

_MAX_NAME = 200
_PLAIN = re.compile(rb"[A-Za-z0-9._-]")
_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\.|$)", re.IGNORECASE)


def file_names(tensors: Iterable[str], suffix: str) -> dict[str, str]:
    """A file name for every tensor of a model, all different even where case does not count.

    Give all names of the model, not only those to be written: whether two names collide must not
    depend on a filter. `suffix` has its dot.
    """
    stems = {tensor: file_stem(tensor) for tensor in tensors}
    times = Counter(stem.casefold() for stem in stems.values())
    return {
        tensor: stem + (_fingerprint(tensor) if times[stem.casefold()] > 1 else "") + suffix
        for tensor, stem in stems.items()
    }


def file_stem(tensor: str) -> str:
    """The file name of one tensor without its suffix: at most 213 bytes of ASCII, never `.`, `..`
    or `-x`."""
    raw = tensor.encode("utf-8", "surrogatepass")
    units = [chr(b) if _PLAIN.match(bytes([b])) else f"%{b:02X}" for b in raw]
    if set(tensor) == {"."} or _RESERVED.match(tensor) or tensor.startswith("-"):
        units[0] = f"%{raw[0]:02X}"
    stem, kept = "", 0
    while kept < len(units) and len(stem) + len(units[kept]) <= _MAX_NAME:
        stem += units[kept]
        kept += 1
    return stem if kept == len(units) and stem else stem + _fingerprint(tensor)


def _fingerprint(tensor: str) -> str:
    return "~" + hashlib.sha256(tensor.encode("utf-8", "surrogatepass")).hexdigest()[:12]
