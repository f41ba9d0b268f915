"""One edit as plain data: a place, an operation, and numbers or a function."""

import contextlib
import dataclasses
import json
import pickle
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..arguments import shown
from ..errors import EditError, EditTypeError
from ..files.encode import check_unmasked
from ..messages import printable
from .index import Index, show_index

Values = NDArray[np.float32]
Function = Callable[[Values, "At"], Any]
_PLAIN = re.compile(r"[A-Za-z_][\w.]*")


class At(NamedTuple):
    """The context in which a function of `map` is called."""

    point: str
    """The name of the point."""
    layer: int | None
    """None for a point that is not per layer."""
    positions: NDArray[np.int64]
    """The absolute positions of the rows."""
    prompt: int
    """The number of the prompt in the batch."""
    step: int
    """0 for the prompt, then the number of the new token that is computed."""


class Mapped:
    """A function of `map`. A function that cannot be pickled, such as a lambda, is pickled as its
    name, so that its run can be pickled."""

    def __init__(self, function: Function, source_sha256: str | None = None) -> None:
        self.function = function
        self.name: str = getattr(function, "__name__", repr(function))
        self._source_sha256 = source_sha256

    @property
    def source_sha256(self) -> str | None:
        """The sha256 of its Python source; None if the source is not available."""
        import inspect  # slow to import

        if self._source_sha256 is None and not hasattr(self.function, "is_lost"):
            with contextlib.suppress(OSError, TypeError, SyntaxError):
                text = inspect.getsource(self.function)
                self._source_sha256 = sha256_of(text.encode("utf-8", "surrogatepass"))
        return self._source_sha256

    def __call__(self, value: Values, at: At) -> Any:
        return self.function(value, at)

    def __deepcopy__(self, memo: object) -> "Mapped":
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        try:
            pickle.dumps(self.function)
        except Exception:  # pickling may raise anything
            return lost, (self.name, self.source_sha256)
        return Mapped, (self.function, self._source_sha256)


def lost(name: str, source_sha256: str | None = None) -> Mapped:
    """Stands in for a function that was not kept with its edit."""

    def lost(value: Values, at: At) -> None:
        raise EditError(f"the function {name} was not kept with its edit; map it again")

    lost.__name__ = name
    lost.is_lost = True  # type: ignore[attr-defined]
    return Mapped(lost, source_sha256)


class Recorded(NamedTuple):
    """The inputs and outputs of a function of `map` in a run."""

    positions: NDArray[np.int64]
    before: Values
    """float32 [rows, heads or 1, channels]; for a map, [heads, rows, keys]."""
    after: Values


class Source(NamedTuple):
    """The run that values were taken from."""

    prompt: str | None
    n_tokens: int
    is_whole: bool
    """Whether whole values were taken, which only fit prompts of the same length."""
    prompt_sha256: str | None = None
    """The sha256 of the prompt's text in UTF-8; None for token ids."""
    ids_sha256: str = ""
    """The sha256 of the token ids as little-endian int32."""
    folder: str | None = None
    """The folder that the run was read from."""


@dataclass(frozen=True, eq=False)
class Edit:
    """One edit. `repr` shows it as it was written."""

    name: str
    """The name of the point."""
    layer: int | None
    """None for a point that is not per layer."""
    index: Index
    """The index as written; for an edit of a run, with absolute positions."""
    op: str
    """ "=", "+=", "-=", "*=", or "map"."""
    value: Values | None = None
    """float32, of a shape that broadcasts to the selection; None for "map"."""
    function: Mapped | None = None
    """The function of "map"."""
    whole: bool = False
    """Whether the function takes all rows at once."""
    file: str | None = None
    """The .npy file that the value was read from, if any."""
    factor: float | None = None
    """The factor that the file's numbers were multiplied by; None: none."""
    source: Source | None = None
    """The run that the value was taken from, if any."""
    requested: Index | None = None
    """For an edit of a run, the index before positions were made absolute."""
    n_changed: int | None = None
    """For an edit of a run, the number of elements whose bits changed."""
    recorded: Recorded | None = None
    """For a function in a run, its inputs and outputs."""

    @property
    def written(self) -> str | None:
        """`repr` before positions were made absolute; None if the edit has not been run."""
        if self.requested is None:
            return None
        return repr(dataclasses.replace(self, index=self.requested, n_changed=None))

    @property
    def place(self) -> str:
        """The point, the layer and the index, such as z[3][-1, 5]."""
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
        prompt, is_text = self.source.prompt, self.source.prompt_sha256 is not None
        of = printable(repr(prompt), 24) if prompt else "a prompt" if is_text else "token ids"
        return f"{shape} of {of}>"


def as_values(value: object, what: str = "the value of an edit") -> Values:
    """A float32 copy, rounded once. EditTypeError unless the value is real numbers, ArgumentError
    for masked values."""
    check_unmasked(value)
    try:
        array = np.asarray(value)
    except Exception as error:  # a ragged list, a tensor that NumPy cannot read
        fact = printable(str(error), 120)
        raise EditTypeError(
            f"{what} is {shown(value)}, which NumPy cannot read ({fact}); give real numbers"
        ) from None
    if array.dtype.kind not in "fiu":
        raise EditTypeError(f"{what} is {shown(value)} ({array.dtype}); give real numbers")
    with np.errstate(over="ignore", invalid="ignore"):
        return array.astype(np.float32)


def show_number(number: float) -> str:
    text = str(np.float32(number))
    return text.removesuffix(".0")


def sha256_of(data: bytes) -> str:
    import hashlib

    return hashlib.sha256(data).hexdigest()


def as_run(edit: Edit, index: Index, n_changed: int, recorded: Recorded | None) -> Edit:
    """An edit as applied in a run, with absolute positions and the number of changed elements."""
    source = None if edit.source is None else edit.source._replace(is_whole=False)
    return dataclasses.replace(
        edit,
        index=index,
        source=source,
        requested=edit.index,
        n_changed=n_changed,
        recorded=recorded,
    )
