"""Checks of user arguments: an ArgumentError names the argument, its value and the way out.

NumPy is not imported, so that `--help` on the command line starts fast.
"""

import math
import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from .errors import ArgumentError
from .messages import printable

_T = TypeVar("_T")


def shown(value: object, limit: int = 60) -> str:
    """`repr` on one line; the type if `repr` fails, as for an integer of 5,000 digits."""
    try:
        number: Any = value
        is_number = getattr(value, "shape", None) == () and hasattr(value, "item")
        return printable(repr(number.item() if is_number else value), limit)
    except Exception:  # a repr may raise anything
        return f"<{printable(type(value).__name__)}>"


def refusal(name: str, value: object, way_out: str) -> ArgumentError:
    return ArgumentError(f"{name} is {shown(value)}; give {way_out}")


def is_whole(value: object) -> bool:
    """Whether it is one integer: a Python or NumPy integer or a 0-d array; not a bool."""
    if isinstance(value, bool) or getattr(value, "ndim", None) not in (None, 0):
        return False
    try:
        operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        return False
    return True


def whole(
    name: str, value: Any, least: int | None = None, end: int | None = None, way_out: str = ""
) -> int:
    """An integer of at least `least` and below `end`. ArgumentError."""
    if is_whole(value):
        number = operator.index(value)
        least_of_all = -(1 << 63) if least is None else least
        if least_of_all <= number < (1 << 63 if end is None else end):
            return number
    if not way_out:
        way_out = "an integer" + ("" if least is None else _bounds(least, end))
    raise refusal(name, value, way_out)


def _bounds(least: int, end: int | None) -> str:
    return f" of at least {least}" if end is None else f" from {least} to {end - 1}"


def real(name: str, value: Any, way_out: str = "a number", *, finite: bool = True) -> float:
    """A number; with `finite`, neither NaN nor infinite. ArgumentError."""
    is_flag = isinstance(value, bool) or getattr(getattr(value, "dtype", None), "kind", "") == "b"
    if (
        not isinstance(value, (str, bytes, bytearray))
        and not is_flag
        and not getattr(value, "ndim", 0)
    ):
        try:
            number = float(value)
        except Exception:  # __float__ may raise anything
            pass
        else:
            if math.isfinite(number) or not finite:
                return number
    raise refusal(name, value, way_out)


def fraction(name: str, value: Any) -> float:
    """A number from 0 to 1. ArgumentError."""
    number = real(name, value, "a number from 0 to 1")
    if 0 <= number <= 1:
        return number
    raise refusal(name, value, "a number from 0 to 1")


def choice(name: str, value: Any, known: Sequence[str]) -> str:
    """One of the `known` words. ArgumentError."""
    if isinstance(value, str) and value in known:
        return value
    more = ", ..." if len(known) > 12 else ""
    raise refusal(name, value, f"one of {', '.join(known[:12])}{more}")


def flag(name: str, value: Any) -> bool:
    """A bool. ArgumentError for a value without a truth value, such as an array."""
    try:
        return bool(value)
    except Exception:
        raise refusal(name, value, "True or False") from None


def is_iterable(value: object) -> bool:
    """False for a 0-d array, which only looks iterable."""
    return isinstance(value, Iterable) and getattr(value, "ndim", None) != 0


def listed(name: str, value: Any, way_out: str) -> list[Any]:
    """The items of an iterable other than a str. ArgumentError."""
    if isinstance(value, (str, bytes, bytearray, Mapping)) or not is_iterable(value):
        raise refusal(name, value, way_out)
    return list(value)


def instance(name: str, value: Any, kind: type[_T], way_out: str) -> _T:
    """A value of type `kind`. ArgumentError."""
    if isinstance(value, kind):
        return value
    raise refusal(name, value, way_out)


def function(name: str, value: Any) -> Any:
    """A function, or None. ArgumentError."""
    if value is None or callable(value):
        return value
    raise refusal(name, value, "a function, or None")
