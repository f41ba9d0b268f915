"""Imports pyarrow, which the extra `data` installs."""

from importlib import import_module
from typing import Any

from ..errors import ArgumentError


def need_pyarrow(part: str, purpose: str) -> Any:
    """pyarrow with one of its modules imported. ArgumentError if it is not installed."""
    try:
        import_module(f"pyarrow.{part}")
        return import_module("pyarrow")
    except ImportError:
        raise ArgumentError(f"{purpose}: needs pyarrow: pip install 'llamaprobe[data]'") from None
