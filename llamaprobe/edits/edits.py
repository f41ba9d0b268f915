"""`Edits`: NumPy assignments that are recorded, and applied during a run.

    e = Edits()
    e["z", 3][-1, 5] = 0             # axes as in run["z", 3]: [T, n_heads, head_dim]
    e["x", 10][7:] += 4 * v
    e["gate", 7].map(function)

Names of points are kept as written, because the meaning of some depends on the model. Values are
copied when they are recorded.
"""

import operator
from collections.abc import Iterable, Iterator
from typing import Any, NoReturn, Protocol, SupportsIndex, overload

import numpy as np
from numpy.typing import NDArray

from ..arguments import flag, is_whole, listed, shown
from ..config import Config
from ..errors import EditError, EditTypeError
from ..points import Layers, Name, check_layers, is_pattern, name_of, resolve, resolve_all
from ..views.methods import check_run
from .edit import Edit, Function, Mapped, Source, Values, as_values, sha256_of
from .index import Index, plain_index, read_index
from .places import absolute


class Run(Protocol):
    """The part of `llamaprobe.Run` that is needed to take values from it."""

    points: tuple[str, ...]
    token_ids: NDArray[np.int32]
    prompt: str | None
    saved_in: str | None

    @property
    def config(self) -> Config: ...
    def layers_of(self, point: Name) -> tuple[int, ...]: ...
    def __getitem__(self, point: Name) -> Values: ...


class Edits:
    """A list of edits, recorded by NumPy-style assignments. Nothing is computed before `Model.run`.

    e[point, layer][index] = value, also +=, -=, *=; e[point][index] for a point that is not per
    layer, such as "logits". An index has the axes of run[point, layer]. e[number] is an Edit.
    """

    session_prompt: int | None = None
    """For the run of a session, the length of the prompt that it was started with; negative
    positions of its edits count from the end of that prompt."""

    _is_made = False
    """Whether these are the edits of a run, which cannot be changed."""

    def __init__(self, edits: Iterable[Edit] = ()) -> None:
        """Raises EditError for items that are not Edit objects."""
        way_out = "Edit objects, such as those of run.edits; text is read by lp.Edits.parse"
        self._edits: list[Edit] = listed("edits", edits, way_out)
        for edit in self._edits:
            if not isinstance(edit, Edit):
                raise EditError(f"an Edits holds {shown(edit)}; give {way_out}")

    @staticmethod
    def parse(text: str | Iterable[str]) -> "Edits":
        """Edits from one or several texts in the form that `repr` shows, `z[3][-1, 5] = 0`; the
        value is a number or `[factor *] file.npy`. EditError, FileError, FormatError."""
        from .grammar import parse  # re and ast are for text alone

        lines = (
            [text] if isinstance(text, str) else listed("text", text, "an edit as text, or several")
        )
        return Edits(parse(line) for line in lines)

    @overload
    def __getitem__(self, key: SupportsIndex) -> Edit: ...
    @overload
    def __getitem__(self, key: slice) -> "Edits": ...
    @overload
    def __getitem__(self, key: Name) -> "Place": ...
    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, slice):
            return Edits(self._edits[_checked_slice(key)])
        if isinstance(key, (str, tuple)):
            return Place(self, *name_of(key))
        if not is_whole(key):
            raise EditTypeError(
                f"{shown(key)} is neither a place nor the number of an edit; a place is e['x', 3]"
            )
        number, n = operator.index(key), len(self._edits)
        if -n <= number < n:
            return self._edits[number]
        raise EditError(
            f"there is no edit {shown(number)}, there {'is' if n == 1 else 'are'} {n}; a layer is named"
            " with its point: e['x', 3]"
        )

    def __setitem__(self, key: Name, value: object) -> None:
        if isinstance(value, Selection) and value._is_recorded:
            return  # e[point, layer] += value
        Place(self, *name_of(key))[...] = value

    def __copy__(self) -> "Edits":
        """A copy to which edits can be added."""
        other = Edits(self)
        other.session_prompt = self.session_prompt
        return other

    def __len__(self) -> int:
        return len(self._edits)

    def __bool__(self) -> bool:
        return bool(self._edits)

    def __iter__(self) -> Iterator[Edit]:
        return iter(self._edits)

    def __add__(self, other: object) -> "Edits":
        if not isinstance(other, Edits):
            return NotImplemented
        return Edits([*self, *other])

    def __repr__(self) -> str:
        return "\n".join(map(repr, self)) or "<no edits>"

    def _repr_html_(self) -> str:
        from ..views.edits import edits_html

        return edits_html(self)

    def _record(self, edit: Edit) -> None:
        if self._is_made:
            raise EditError(
                f"{edit.place}: these are the edits that a run made, which do not change; add to a"
                " copy: lp.Edits(run.edits)"
            )
        self._edits.append(edit)

    def _made(self) -> "Edits":
        """A copy that cannot be changed."""
        self._is_made = True
        return self


def _checked_slice(key: slice) -> slice:
    if all(end is None or is_whole(end) for end in (key.start, key.stop)) and (
        key.step is None or (is_whole(key.step) and key.step)
    ):
        return key
    raise EditTypeError(f"{shown(key)} is not a slice of numbers of edits")


class Selection:
    """Elements of a value in a future run: assign to them, or `map` a function."""

    def __init__(self, edits: Edits, name: str, layer: int | None, index: Index) -> None:
        self._edits, self._name, self._layer, self._index = edits, name, layer, index
        self._is_recorded = False

    __iter__ = None  # or Python would iterate by __getitem__(0), (1), ... without end

    def __getitem__(self, index: object) -> "Selection":
        raise self._indexed(index)

    def __setitem__(self, index: object, value: object) -> None:
        raise self._indexed(index)

    def _indexed(self, index: object) -> EditTypeError:
        place = Edit(self._name, self._layer, self._index, "=").place
        return EditTypeError(
            f"{place} was indexed once more, with {shown(index)}; put all indices into one pair of"
            " brackets: e['z', 3][-1, 5] = 0"
        )

    def _divided(self, value: object) -> NoReturn:
        raise EditTypeError(
            "an edit is =, +=, -= or *=; instead of x /= 2 write x *= 1 / 2, or map a function"
        )

    __itruediv__ = __ifloordiv__ = __imod__ = __ipow__ = __imatmul__ = _divided

    def __iadd__(self, value: object) -> "Selection":
        return self._assign("+=", value)

    def __isub__(self, value: object) -> "Selection":
        return self._assign("-=", value)

    def __imul__(self, value: object) -> "Selection":
        return self._assign("*=", value)

    def map(self, function: Function, *, whole: bool = False) -> None:
        """Record a function that is called as function(value, at) during the run. `value` holds the
        selected elements, float32 [rows, ...], for a map [heads, rows, keys]; an axis indexed by an
        integer is dropped, except rows. The function writes to `value`, or returns an array of its
        shape. `at` is an `At`: point, layer, positions, prompt, step.

        A call has the rows being computed, and the result for a row must not depend on the other
        rows. whole: the function needs all rows of the prompt at once. An exception ends the run
        and is passed on.
        """
        if not callable(function):
            raise EditTypeError(f"map takes a function, not {shown(function)}")
        mapped, whole = Mapped(function), flag("whole", whole)
        self._record(Edit(self._name, self._layer, self._index, "map", None, mapped, whole))

    def _assign(self, op: str, value: object) -> "Selection":
        if isinstance(value, Selection):
            raise EditTypeError(
                f"{value!r} has no values yet; take them from a run: lp.like(run, ...)"
            )
        self._record(Edit(self._name, self._layer, self._index, op, as_values(value)))
        self._is_recorded = True
        return self

    def _record(self, edit: Edit) -> None:
        self._edits._record(edit)

    def __repr__(self) -> str:
        return f"<{Edit(self._name, self._layer, self._index, '=').place} of a run to come>"


class Place(Selection):
    """A whole value; indexing selects a part of it."""

    def __init__(self, edits: Edits, name: str, layer: int | None) -> None:
        super().__init__(edits, name, layer, (...,))

    def __getitem__(self, index: object) -> Selection:
        return Selection(self._edits, self._name, self._layer, read_index(index))

    def __setitem__(self, index: object, value: object) -> None:
        if isinstance(value, Selection) and value._is_recorded:
            return  # e[point, layer][index] += value
        Selection(self._edits, self._name, self._layer, read_index(index))._assign("=", value)


# ---- edits from runs ----


def like(run: Run, point: Name, layer: int | None = None, index: object = ...) -> Edits:
    """The edit e[point, layer][index] = run[point, layer][index], with a record of the run.

    run: a Run that holds the point, also one from `read_run`. Without an index, the whole value is
    taken, which fits prompts of the same number of tokens. PointError, EditError.
    """
    check_run(run)
    name: Any = point
    if layer is not None:
        name = (*(point if isinstance(point, tuple) else (point,)), layer)
    found, number = resolve(name, run.config)
    if found.per_layer and number is None:
        raise EditError(f"{found.name} is a value of each layer; name one: like(run, {point!r}, 3)")
    n_tokens = len(run.token_ids)
    items, is_all = read_index(index), index is ...
    place = Edit(found.name, number, items, "=")
    try:
        absolute(place, run.config, n_tokens, n_tokens)
    except EditError as error:
        error.reword(f"{place.place} of the run: {error}")
        raise
    values = run[name][plain_index(items, n_tokens)]
    if is_all:
        row = slice(0, n_tokens)
        items = (slice(None), row, row) if found.width == "map" else (row,)
    prompt, ids = run.prompt, run.token_ids
    source = Source(
        prompt,
        n_tokens,
        is_all,
        None if prompt is None else sha256_of(prompt.encode("utf-8", "surrogatepass")),
        sha256_of(ids.astype("<i4").tobytes()),
        run.saved_in,
    )
    return Edits([Edit(found.name, number, items, "=", as_values(values), source=source)])


def freeze(run: Run, points: str | Iterable[Name], layers: Layers = None) -> Edits:
    """Edits that set whole values to those of a run, for each of these points and layers.

    points: names and patterns as for `Model.run`; points that match a pattern but are not in the
    run are left out. layers: default: all that the run holds of a point. PointError.
    """
    check_run(run)
    config, edits = run.config, Edits()
    chosen = None if layers is None else check_layers(layers, config.n_layers)
    for name, point, layer in resolve_all(points, config):
        if is_pattern(name) and point.name not in run.points:
            continue
        if not point.per_layer:
            edits += like(run, point.name)
            continue
        for number in run.layers_of(point.name) if layer is None else (layer,):
            if chosen is None or number in chosen:
                edits += like(run, point.name, number)
    if not edits:
        raise EditError("no value of the run is among these points and layers")
    return edits


def knockout(layer: int, query: object, key: object, head: object = None) -> Edits:
    """Edits that hide keys from queries by setting their scores to -inf. query and key may be a
    number, a slice, a span or a list; every pair is hidden. head: None for all heads. Raises
    EditError for an invalid index; bounds are checked when the edits are run."""
    (of_key,) = read_index((key,))
    edits = Edits()
    for one in [slice(None)] if head is None else _each("head", head):
        for q in _each("query", query):
            edits["scores", layer][one, q, of_key] = -np.inf
    return edits


def _each(name: str, given: object) -> list[Any]:
    """The numbers of a list, or the single item in a list."""
    (item,) = read_index((given,))
    found = list(item) if isinstance(item, tuple) else [item]
    if not found:
        raise EditError(f"{name} is an empty list, which knocks out nothing; leave the edit out")
    return found
