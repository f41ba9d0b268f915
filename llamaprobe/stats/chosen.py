"""Names of statistics, the same in Python and on the command line: range, moments, histogram, gram,
top:K, firing:THETA."""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..arguments import listed, shown
from ..errors import ArgumentError
from ..messages import printable

_FORMS = "range, moments, histogram, gram, top:K (as top:64), or firing:THETA (as firing:0.5)"
_MOST_TOP = 4096
_MOST_THETAS = 16


@dataclass(frozen=True)
class Chosen:
    """The statistics to collect for every target, besides the counts."""

    range: bool = False
    moments: bool = False
    histogram: bool = False
    gram: bool = False
    top: int = 0
    thetas: tuple[float, ...] = ()
    """float32 numbers in ascending order."""

    def names(self) -> list[str]:
        """The names in a fixed order, as `read_chosen` reads them."""
        flags = [name for name in ("range", "moments", "histogram", "gram") if getattr(self, name)]
        top = [f"top:{self.top}"] if self.top else []
        return [*flags, *top, *(f"firing:{theta!r}" for theta in self.thetas)]


def read_chosen(names: str | Iterable[str]) -> Chosen:
    """ArgumentError."""
    found: dict[str, Any] = {"thetas": set()}
    for name in (names,) if isinstance(names, str) else listed("stats", names, _FORMS):
        match = re.fullmatch(r"(top|firing):(\S{1,40})", name) if isinstance(name, str) else None
        if isinstance(name, str) and name in ("range", "moments", "histogram", "gram"):
            found[name] = True
        elif match and match[1] == "top":
            found["top"] = max(found.get("top", 0), _count(name, match[2]))
        elif match:
            found["thetas"].add(_theta(name, match[2]))
        else:
            raise ArgumentError(f"there is no statistic {shown(name)}; give {_FORMS}")
    thetas = tuple(sorted(found.pop("thetas")))
    if len(thetas) > _MOST_THETAS:
        raise ArgumentError(f"{len(thetas)} thresholds of firing; the most are {_MOST_THETAS}")
    return Chosen(thetas=thetas, **found)


def _count(name: str, text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,6}", text) or not 1 <= int(text) <= _MOST_TOP:
        raise ArgumentError(f"{printable(repr(name), 60)}: K is a number from 1 to {_MOST_TOP}")
    return int(text)


def _theta(name: str, text: str) -> float:
    try:
        with np.errstate(over="ignore"):
            theta = float(np.float32(float(text)))
    except ValueError:
        theta = math.nan
    if not math.isfinite(theta):
        raise ArgumentError(f"{printable(repr(name), 60)}: THETA is a finite float32 number")
    return theta + 0.0  # -0 is 0
