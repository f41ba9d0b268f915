"""The statistics of one point in one layer, per channel, as NumPy arrays.

Integers are exact; means, moments and Gram matrices are exact sums rounded once to float64.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arguments import choice, fraction, real, shown, whole
from ..errors import ArgumentError
from ..points import all_points, axis_names
from . import exact, wide
from .chosen import Chosen
from .state import N_BUCKETS, State, float_keys, gram_ints, group_of, joined

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Example:
    """One of the largest values of a channel, and where it occurred."""

    value: float
    document: int
    """The document's number in the dataset, from 0."""
    start: int
    """The position of the window's first token in the document."""
    position: int
    """The token's position in the window."""
    token_id: int
    context: NDArray[np.int32]
    """The token ids of the window up to this one."""


class Channels:
    """The statistics of one target over all tokens or over one group; made by `Stats[...]`."""

    def __init__(
        self,
        name: str,
        state: State,
        chosen: Chosen,
        shape: tuple[int, ...],
        groups: tuple[str, ...],
        group: str,
        contexts: Mapping[tuple[int, int], NDArray[np.int32]],
        exact_quantiles: tuple[float, ...] = (),
    ) -> None:
        self.name = name
        """ "x.10", "logits"."""
        self.shape = shape
        """The shape of one row, which is the leading shape of all arrays."""
        self.groups = groups
        """The names of the groups of tokens."""
        self.group = group
        """The group that these numbers are for; "all" for all groups together."""
        self._every, self._chosen, self._contexts = state, chosen, contexts
        self._exact = exact_quantiles
        self._state = joined(state) if group == "all" else group_of(state, groups.index(group))

    def __repr__(self) -> str:
        names = ", ".join(self._chosen.names())
        return f"<Channels {self.name} of {self.group} tokens: {list(self.shape)}, {names or 'counts'}>"

    def of(self, group: str) -> "Channels":
        """The same target for another group, by name; "all" for all together. ArgumentError."""
        choice("group", group, ("all", *self.groups))
        return Channels(
            self.name,
            self._every,
            self._chosen,
            self.shape,
            self.groups,
            group,
            self._contexts,
            self._exact,
        )

    @property
    def all(self) -> "Channels":
        """The same target for all groups together."""
        return self.of("all")

    # ---- counts and range ----

    @property
    def count(self) -> NDArray[np.int64]:
        """int64: the number of finite values."""
        return self._count(0)

    @property
    def zero(self) -> NDArray[np.int64]:
        return self._count(1)

    @property
    def nan(self) -> NDArray[np.int64]:
        return self._count(2)

    @property
    def inf(self) -> NDArray[np.int64]:
        return self._count(3)

    @property
    def min(self) -> NDArray[np.float32]:
        """+inf without a finite value."""
        return self._shaped(self._array("range", "range")[0, :, 0])

    @property
    def max(self) -> NDArray[np.float32]:
        """-inf without a finite value."""
        return self._shaped(self._array("range", "range")[0, :, 1])

    @property
    def absmax(self) -> NDArray[np.float32]:
        """0 without a finite value."""
        some = np.abs(self._array("range", "range")[0]).max(-1)
        return self._shaped(np.where(self._count(0).reshape(-1) > 0, some, np.float32(0)))

    # ---- moments ----

    @property
    def mean(self) -> Floats:
        return self._each(exact.mean, "sum_1")

    @property
    def mean_abs(self) -> Floats:
        return self._each(exact.mean, "sum_abs")

    @property
    def mean_square(self) -> Floats:
        return self._each(exact.mean_square, "sum_2")

    def var(self, ddof: int = 0) -> Floats:
        n_less = _ddof(ddof)
        return self._each(lambda n, s1, s2: exact.variance(n, s1, s2, n_less), "sum_1", "sum_2")

    def std(self, ddof: int = 0) -> Floats:
        n_less = _ddof(ddof)
        return self._each(lambda n, s1, s2: exact.deviation(n, s1, s2, n_less), "sum_1", "sum_2")

    def skew(self) -> Floats:
        """m3 / m2^(3/2), the biased estimate; NaN if the variance is 0."""
        return self._each(exact.skew, "sum_1", "sum_2", "sum_3")

    def kurtosis(self) -> Floats:
        """m4 / m2^2, the biased estimate: 3 for a normal distribution; NaN if the variance is 0."""
        return self._each(exact.kurtosis, "sum_1", "sum_2", "sum_3", "sum_4")

    def power_sums(self, p: int) -> NDArray[Any]:
        """The exact sums of x^p, for p from 1 to 4, as integers in units of 2^(-149 p)."""
        power = whole("p", p, 1, 5)
        return self._shaped(wide.to_ints(self._array(f"sum_{power}", "moments")[0]))

    # ---- histogram ----

    def histogram(self) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """(edges [n, 2], counts [channels, n]) of the buckets that hold a value of any channel, in
        ascending order. The edges are the smallest and the largest float of a bucket."""
        buckets, counts = self._dense()
        return bucket_edges(buckets), counts

    def quantile(self, q: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Lower and upper bound of the q-quantile: the smallest value that at least a fraction q of
        all values do not exceed (NumPy's "inverted_cdf"). For normal numbers they are at most 6.3 %
        apart. If q was collected with exact=(q, ...), both are the quantile itself."""
        q = fraction("q", q)
        if "quantile" in self._state and q in self._exact:
            values = self._state["quantile"][0, :, self._exact.index(q)]
            return self._shaped(values), self._shaped(values)
        buckets, counts = self._dense()
        edges, sums = bucket_edges(buckets), counts.cumsum(-1)
        found = np.full((len(counts), 2), np.nan, np.float32)
        for channel, n in enumerate(sums[:, -1].tolist() if len(buckets) else ()):
            if n:
                found[channel] = edges[np.searchsorted(sums[channel], exact.rank(q, n))]
        return self._shaped(found[:, 0]), self._shaped(found[:, 1])

    def count_from(self, magnitude: float) -> NDArray[np.int64]:
        """The exact number of values with |x| >= magnitude, which must be the lower edge of a
        bucket, such as 6. ArgumentError."""
        edge = _float32("magnitude", magnitude)
        bits = int(edge.view(np.uint32))
        if float(edge) != magnitude or not edge > 0 or bits & 0x7FFFF:
            raise ArgumentError(
                f"{shown(magnitude)} is not an edge of a bucket: a power of two times 1, 1 + 1/16,"
                " ..."
            )
        state = self._histogram()
        rows = np.repeat(np.arange(len(state["first"]) - 1), np.diff(state["first"]))
        above = (state["bucket"] & 4095) >= bits >> 19
        found = np.zeros(len(state["first"]) - 1, np.int64)
        np.add.at(found, rows[above], state["total"][above])
        return self._shaped(found)

    def median_abs(self) -> tuple[float, float]:
        """Lower and upper bound of the median of |x| over all channels; NaN without values."""
        state = self._histogram()
        totals = np.bincount(state["bucket"] & 4095, state["total"].astype(np.float64), 4096)
        sums = totals.cumsum()
        if not sums[-1]:
            return float("nan"), float("nan")
        bucket = int(np.searchsorted(sums, exact.rank(0.5, int(sums[-1]))))
        low, high = bucket_edges(np.array([bucket]))[0]
        return float(low), float(high)

    # ---- the rest ----

    def fires(self, theta: float) -> NDArray[np.int64]:
        """The number of values above theta, a threshold collected as firing:THETA.
        ArgumentError."""
        self._array("fires", "firing:THETA")
        number = float(_float32("theta", theta))
        if number not in self._chosen.thetas:
            known = ", ".join(map(repr, self._chosen.thetas))
            raise ArgumentError(f"firing above {shown(theta)} was not collected; there is {known}")
        at = self._chosen.thetas.index(number)
        return self._shaped(self._state["fires"][0, :, at])

    def rate(self, theta: float) -> Floats:
        """`fires(theta) / count`; NaN without values."""
        n = self.count
        return np.where(n > 0, self.fires(theta) / np.maximum(n, 1), np.nan)

    def top(self, channel: int | tuple[int, ...]) -> list[Example]:
        """The largest values of a channel (an index into `shape`), the largest first."""
        self._array("top.value", "top:K")
        try:
            row = int(np.arange(self._state["count"].shape[1]).reshape(self.shape)[channel])
        except (IndexError, TypeError, ValueError):
            raise ArgumentError(
                f"{self.name} has no channel {shown(channel)}; its shape is {list(self.shape)}"
            ) from None
        names = ("value", "document", "start", "position")
        columns = [self._state[f"top.{name}"][0, row].tolist() for name in names]
        found = []
        for value, document, start, position in zip(*columns, strict=True):
            if document >= 0:
                ids = self._contexts[document, start][: position + 1]
                found.append(Example(value, document, start, position, int(ids[-1]), ids))
        return found

    @property
    def gram_rows(self) -> int:
        """The number of tokens in the Gram matrix: those whose values are all finite."""
        return int(self._array("gram.rows", "gram")[0, 0])

    def gram(self) -> Floats:
        """X^T X, float64 [channels, channels], not divided by the number of tokens."""
        return self._square(self._gram_ints(), 1 << exact.UNIT)

    def covariance(self, ddof: int = 0) -> Floats:
        """float64 [channels, channels], from the exact Gram matrix and sums, rounded once.
        ArgumentError if tokens were left out of the Gram matrix."""
        ddof = _ddof(ddof)
        n = self.gram_rows
        sums = wide.to_ints(self._array("sum_1", "moments")[0])
        if (self._count(0) != n).any():
            raise ArgumentError(
                f"{self.name}: values that are not finite were left out of the Gram matrix, so"
                " there is no covariance"
            )
        if n <= ddof:
            return np.full((len(sums), len(sums)), np.nan)
        row, column = np.tril_indices(len(sums))
        grams = self._gram_ints() * n  # units of 2^-149, products of sums of 2^-298
        values = (grams << exact.UNIT) - sums[row] * sums[column]
        return self._square(values, n * (n - ddof) << 2 * exact.UNIT)

    # ---- tables ----

    @property
    def dims(self) -> tuple[str, ...]:
        """The names of the axes of `shape`, as in `Run.dims`."""
        point = next(p for p in all_points() if p.name == self.name.partition(".")[0])
        names = axis_names(point, 1 + len(self.shape))
        return tuple(name for name in names if name not in ("layer", "token"))

    def columns(self) -> dict[str, NDArray[Any]]:
        """Name -> array, for every collected statistic with one number per channel."""
        chosen = self._chosen
        found: dict[str, NDArray[Any]] = {"count": self.count, "zero": self.zero}
        found |= {"nan": self.nan, "inf": self.inf}
        if chosen.range:
            found |= {"min": self.min, "max": self.max, "absmax": self.absmax}
        if chosen.moments:
            found |= {"mean": self.mean, "mean_abs": self.mean_abs, "var": self.var()}
            found |= {"skew": self.skew(), "kurtosis": self.kurtosis()}
            found |= {"mean_square": self.mean_square}
        return found | {f"fires_{theta!r}": self.fires(theta) for theta in chosen.thetas}

    def to_pandas(self) -> Any:
        """A DataFrame with one row per channel. Needs pandas."""
        from ..views.result_tables import channels_frame

        return channels_frame(self)

    def to_xarray(self) -> Any:
        """A Dataset with one variable per statistic. Needs xarray."""
        from ..views.result_tables import channels_dataset

        return channels_dataset(self)

    # ---- inside ----

    def _array(self, name: str, statistic: str) -> NDArray[Any]:
        if name not in self._state:
            names = ", ".join(self._chosen.names()) or "counts only"
            raise ArgumentError(
                f"{self.name}: {statistic} was not collected ({names}); collect it with"
                f" stats=({statistic!r}, ...)"
            )
        return self._state[name]

    def _shaped(self, array: NDArray[Any]) -> NDArray[Any]:
        return array.reshape(*self.shape, *array.shape[1:])

    def _count(self, column: int) -> NDArray[np.int64]:
        return self._shaped(self._state["count"][0, :, column])

    def _each(self, rounded: Callable[..., float], *names: str) -> Floats:
        """`rounded(n, *sums)` for each channel."""
        sums = [wide.to_ints(self._array(name, "moments")[0]).tolist() for name in names]
        counts = self._state["count"][0, :, 0].tolist()
        return self._shaped(np.array([rounded(*each) for each in zip(counts, *sums, strict=True)]))

    def _histogram(self) -> State:
        self._array("first", "histogram")
        return self._state

    def _dense(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The buckets that occur, in ascending order, and each channel's counts."""
        state = self._histogram()
        used = np.unique(state["bucket"])
        order = np.argsort(float_keys(bucket_edges(used)[:, 0]), kind="stable")
        buckets = used[order]
        place = np.zeros(N_BUCKETS, np.int64)
        place[buckets] = np.arange(len(buckets))
        n = len(state["first"]) - 1
        counts = np.zeros((n, len(buckets)), np.int64)
        rows = np.repeat(np.arange(n), np.diff(state["first"]))
        counts[rows, place[state["bucket"]]] = state["total"]
        return buckets, counts

    def _gram_ints(self) -> NDArray[Any]:
        rows = self._array("gram.rows", "gram")[0]
        if rows[2]:
            raise ArgumentError(f"{self.name}: {rows[2]} entries of the Gram matrix overflowed")
        return gram_ints(self._state)

    def _square(self, triangle: NDArray[Any], unit: int) -> Floats:
        n = self._state["count"].shape[1]
        row, column = np.tril_indices(n)
        square = np.empty((n, n))
        square[row, column] = [exact.ratio(value, unit) for value in triangle.tolist()]
        square[column, row] = square[row, column]
        return square


def _ddof(ddof: Any) -> int:
    """ArgumentError."""
    return whole("ddof", ddof, 0, 1 << 31)


def _float32(name: str, value: Any) -> np.float32:
    """Rounded once to float32, possibly to an infinity. ArgumentError."""
    with np.errstate(over="ignore"):
        return np.float32(real(name, value))


def bucket_edges(buckets: NDArray[Any]) -> NDArray[np.float32]:
    """[n, 2]: the smallest and the largest float of each bucket."""
    bits = np.asarray(buckets).astype(np.uint32) << np.uint32(19)
    edges = np.stack([bits, bits | np.uint32(0x7FFFF)], -1).view(np.float32)
    return np.where(bits[:, None] >> np.uint32(31), edges[:, ::-1], edges)
