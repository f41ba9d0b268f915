"""How values appear in messages: on one line, printable, short.

Names and texts come from untrusted files: they must not move the cursor of a terminal or fill its
screen.
"""

import os
import re

MAX_PATH = 4096  # characters of a path
_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{16,}")  # of the hub; no word of a text looks like it


def printable(text: str, limit: int = 200) -> str:
    """`text` cut to `limit`, with escapes for control characters and what cannot be printed; bytes
    of a path that are not UTF-8 are \\xNN."""
    shown = "".join(c if c.isprintable() else escape(c) for c in text[: limit + 1])
    return shown if len(shown) <= limit else shown[: limit - 3] + "..."


def escape(char: str) -> str:
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a path that is not UTF-8
        code -= 0xDC00
    return (
        f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 65536 else f"\\U{code:08x}"
    )


def shown_path(path: str | os.PathLike[str]) -> str:
    return printable(os.fsdecode(path), MAX_PATH)


def hide_tokens(text: str) -> str:
    """`***` in place of what looks like a token of the hub."""
    return _TOKEN.sub("***", text)


def counted(n: int, noun: str) -> str:
    """ "1 file", "2 files"."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def show_bytes(n_bytes: float) -> str:
    """12345678 -> '12.3 MB'."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if n_bytes < 1000:
            return f"{n_bytes:.0f} bytes" if unit == "bytes" else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.1f} TB"
