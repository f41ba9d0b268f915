"""One edit as plain data: a place, an operation and numbers, or a function."""

import dataclasses
import json
import pickle
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import EditError
from ..messages import printable
from .index import Index, show_index

Values = NDArray[np.float32]
Function = Callable[[Values, "At"], Any]
_PLAIN = re.compile(r"[A-Za-z_][\w.]*")


class At(NamedTuple):
    """Where a function of `map` is called."""

    point: str
    layer: int | None
    """None for a point that is not per layer."""
    positions: NDArray[np.int64]
    """Absolute, of the rows."""
    prompt: int
    """Its number in the batch."""
    step: int
    """0 for the prompt, then the number of the new token that is run."""


class Mapped:
    """A function of `map`. One that cannot be pickled, such as a lambda, is pickled as its name, so
    that its run can be."""

    def __init__(self, function: Function) -> None:
        self.function = function
        self.name: str = getattr(function, "__name__", repr(function))

    def __call__(self, value: Values, at: At) -> Any:
        return self.function(value, at)

    def __deepcopy__(self, memo: object) -> "Mapped":
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        try:
            pickle.dumps(self.function)
        except Exception:  # whatever its pickling raises
            return _lost, (self.name,)
        return Mapped, (self.function,)


def _lost(name: str) -> Mapped:
    def lost(value: Values, at: At) -> None:
        raise EditError(f"the function {name} was not pickled with its edit; map it again")

    lost.__name__ = name
    return Mapped(lost)


class Source(NamedTuple):
    """The run that values were taken from."""

    prompt: str | None
    token_ids: NDArray[np.int32]
    is_whole: bool
    """Whole values, which belong to prompts of that length alone."""


@dataclass(frozen=True, eq=False)
class Edit:
    """One edit. `repr` gives it as it was written."""

    name: str
    layer: int | None
    index: Index
    op: str
    """ "=", "+=", "-=", "*=", or "map"."""
    value: Values | None = None
    function: Mapped | None = None
    whole: bool = False
    """The function takes all rows at once."""
    file: str | None = None
    """That the value was read from, and the factor that it was multiplied with."""
    factor: float | None = None
    source: Source | None = None
    written: str | None = None
    """`repr` before positions were made absolute; None for an edit that was not run."""
    n_changed: int | None = None
    """Of an edit of a run: how many elements got other bits."""

    @property
    def place(self) -> str:
        name = self.name if _PLAIN.fullmatch(self.name) else json.dumps(self.name)
        layer = "" if self.layer is None else f"[{self.layer}]"
        return f"{name}{layer}[{show_index(self.index)}]"

    def __repr__(self) -> str:
        changed = "" if self.n_changed is None else f"  # {self.n_changed} changed"
        if self.op == "map":
            assert self.function is not None
            return f"{self.place}.map({self.function.name}{', whole=True' if self.whole else ''}){changed}"
        return f"{self.place} {self.op} {self._shown_value()}{changed}"

    def _shown_value(self) -> str:
        assert self.value is not None
        if self.file is not None:
            file = self.file if re.fullmatch(r"[\w./-]+", self.file) else json.dumps(self.file)
            return file if self.factor is None else f"{show_number(self.factor)} * {file}"
        if self.value.ndim == 0:
            return show_number(float(self.value))
        shape = f"<float32 {list(self.value.shape)}"
        if self.source is None:
            return f"{shape}>"
        prompt = self.source.prompt
        return f"{shape} of {printable(repr(prompt), 24) if prompt else 'token ids'}>"


def as_values(value: object) -> Values:
    """A float32 copy, rounded once. TypeError for what is not real numbers."""
    array = np.asarray(value)
    if array.dtype.kind not in "fiu":
        raise TypeError(f"the value of an edit is real numbers, not {array.dtype}")
    with np.errstate(over="ignore"):
        return array.astype(np.float32)


def show_number(number: float) -> str:
    text = str(np.float32(number))
    return text.removesuffix(".0")


def with_count(edit: Edit, index: Index, n_changed: int) -> Edit:
    """An edit as a run made it: absolute positions, and the number of elements that changed."""
    source = None if edit.source is None else edit.source._replace(is_whole=False)
    written = edit.written or repr(dataclasses.replace(edit, n_changed=None))
    return dataclasses.replace(
        edit, index=index, source=source, written=written, n_changed=n_changed
    )
