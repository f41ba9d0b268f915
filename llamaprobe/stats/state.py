"""The state of one target: arrays that depend only on the observed values, and how to merge two.

Leading axes are [n_groups, n_channels]; docs/statistics.md describes each array.
"""

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import exact, wide
from .chosen import Chosen

State = dict[str, NDArray[Any]]

LIMBS = {"sum_abs": 6, "sum_1": 6, "sum_2": 10, "sum_3": 14, "sum_4": 19}
_GRAM_UNIT = 73  # entries are in units of 2^-76, wide ones in units of 2^-149
_WIDE_LIMBS = 6
N_BUCKETS = 1 << 13


def shapes(
    chosen: Chosen, n_groups: int, n_channels: int
) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Array -> dtype and shape; -1 stands for a length that depends on the values."""
    rows = n_groups, n_channels
    n_pairs = n_channels * (n_channels + 1) // 2
    found: dict[str, tuple[str, tuple[int, ...]]] = {"count": ("<i8", (*rows, 4))}
    if chosen.range:
        found["range"] = "<f4", (*rows, 2)
    if chosen.moments:
        found |= {name: ("<i8", (*rows, n)) for name, n in LIMBS.items()}
    if chosen.histogram:
        found["first"] = "<i8", (n_groups * n_channels + 1,)
        found |= {"bucket": ("<i4", (-1,)), "total": ("<i8", (-1,))}
    if chosen.thetas:
        found["fires"] = "<i8", (*rows, len(chosen.thetas))
    if chosen.top:
        found["top.value"] = "<f4", (*rows, chosen.top)
        found |= {f"top.{name}": ("<i8", (*rows, chosen.top)) for name in _PLACE}
    if chosen.gram:
        found |= {"gram": ("<i8", (n_groups, n_pairs, 2)), "gram.rows": ("<i8", (n_groups, 3))}
        found |= {"gram.entry": ("<i8", (-1,)), "gram.wide": ("<i8", (-1, _WIDE_LIMBS))}
    return found


_PLACE = ("document", "start", "position")


def from_core(parts: list[dict[str, NDArray[Any]]], chosen: Chosen) -> State:
    """The state from the core's arrays of each group."""
    n_channels = len(parts[0]["count"])
    state = {"count": np.stack([part["count"] for part in parts])}
    if chosen.range:
        state["range"] = np.stack([part["range"] for part in parts])
    if chosen.moments:
        sums = np.stack([part["sums"] for part in parts])
        ends = list(itertools.accumulate(LIMBS.values(), initial=0))
        for name, start, end in zip(LIMBS, ends, ends[1:], strict=False):
            state[name] = np.ascontiguousarray(sums[..., start:end])
    if chosen.histogram:
        offsets = itertools.accumulate((len(part["bucket"]) for part in parts), initial=0)
        firsts = [p["first"][:-1] + at for p, at in zip(parts, offsets, strict=False)]
        n = sum(len(part["bucket"]) for part in parts)
        state["first"] = np.concatenate([*firsts, [n]])
        state["bucket"] = np.concatenate([part["bucket"] for part in parts])
        state["total"] = np.concatenate([part["total"] for part in parts])
    if chosen.thetas:
        state["fires"] = np.stack([part["fires"] for part in parts])
    if chosen.top:
        for name in ("value", *_PLACE):
            state[f"top.{name}"] = np.stack([part[f"top.{name}"] for part in parts])
    if chosen.gram:
        n_pairs = n_channels * (n_channels + 1) // 2
        dense = np.stack([part["gram"] for part in parts])
        entries = [part["gram.entry"] + g * n_pairs for g, part in enumerate(parts)]
        state |= _gram(
            dense, [(np.concatenate(entries), np.concatenate([p["gram.wide"] for p in parts]))]
        )
        state["gram.rows"] = np.stack([part["gram.rows"] for part in parts])
    return state


def merge(a: State, b: State) -> State:
    """The state of the values of both."""
    found = {"count": a["count"] + b["count"]}
    if "range" in a:
        found["range"] = _ranges(np.stack([a["range"], b["range"]]))
    found |= {name: wide.add(a[name], b[name]) for name in LIMBS if name in a}
    if "first" in a:
        found |= _histograms([a, b], lambda state: rows_of(state))
    if "fires" in a:
        found["fires"] = a["fires"] + b["fires"]
    if "top.value" in a:
        both = {n: np.concatenate([a[n], b[n]], -1) for n in a if n.startswith("top.")}
        found |= _best(both, a["top.value"].shape[-1])
    if "gram" in a:
        found |= _merged_grams(a, b)
        found["gram.rows"] = a["gram.rows"] + b["gram.rows"]
    return found


def joined(state: State) -> State:
    """All groups merged into one."""
    n_groups, n_channels = state["count"].shape[:2]
    if n_groups == 1:
        return dict(state)
    found: State = {"count": state["count"].sum(0, keepdims=True)}
    if "range" in state:
        found["range"] = _ranges(state["range"])[None]
    found |= {name: wide.total(state[name])[None] for name in LIMBS if name in state}
    if "first" in state:
        found |= _histograms([state], lambda each: rows_of(each) % n_channels, n_channels)
    if "fires" in state:
        found["fires"] = state["fires"].sum(0, keepdims=True)
    if "top.value" in state:
        k = state["top.value"].shape[-1]
        both = {
            n: np.moveaxis(state[n], 0, 1).reshape(1, n_channels, -1)
            for n in state
            if n.startswith("top.")
        }
        found |= _best(both, k)
    if "gram" in state:
        groups = [group_of(state, g) for g in range(n_groups)]
        whole = groups[0]
        for each in groups[1:]:
            whole = _merged_grams(whole, each)
        found |= {name: whole[name] for name in ("gram", "gram.entry", "gram.wide")}
        found["gram.rows"] = state["gram.rows"].sum(0, keepdims=True)
    return found


def group_of(state: State, group: int) -> State:
    """The state of one group."""
    n_channels = state["count"].shape[1]
    flat = ("first", "bucket", "total", "gram.entry", "gram.wide")
    found = {name: array[group : group + 1] for name, array in state.items() if name not in flat}
    if "first" in state:
        first = state["first"][group * n_channels : (group + 1) * n_channels + 1]
        found["first"] = first - first[0]
        found["bucket"] = state["bucket"][first[0] : first[-1]]
        found["total"] = state["total"][first[0] : first[-1]]
    if "gram" in state:
        n_pairs = state["gram"].shape[1]
        mine = state["gram.entry"] // n_pairs == group
        found["gram.entry"] = state["gram.entry"][mine] - group * n_pairs
        found["gram.wide"] = state["gram.wide"][mine]
    return found


def rows_of(state: Mapping[str, NDArray[Any]]) -> NDArray[np.int64]:
    """The row of each histogram bucket: group * n_channels + channel."""
    first = state["first"]
    return np.repeat(np.arange(len(first) - 1), np.diff(first))


def _ranges(ranges: NDArray[np.float32]) -> NDArray[np.float32]:
    """(min, max) over the first axis; -0 is below +0."""
    keys = float_keys(ranges)
    return float_of_keys(np.stack([keys[..., 0].min(0), keys[..., 1].max(0)], -1))


def float_keys(values: NDArray[np.float32]) -> NDArray[np.int32]:
    """Integers that sort as the floats do, with -0 below +0."""
    bits = np.ascontiguousarray(values, np.float32).view(np.int32)
    return np.where(bits < 0, bits ^ 0x7FFFFFFF, bits).astype(np.int32)


def float_of_keys(keys: NDArray[np.int32]) -> NDArray[np.float32]:
    return np.where(keys < 0, keys ^ 0x7FFFFFFF, keys).astype(np.int32).view(np.float32)


def _histograms(states: list[State], rows: Any, n_rows: int | None = None) -> State:
    n_rows = len(states[0]["first"]) - 1 if n_rows is None else n_rows
    keys = np.concatenate([rows(each) * N_BUCKETS + each["bucket"] for each in states])
    totals = np.concatenate([each["total"] for each in states])
    found, where = np.unique(keys, return_inverse=True)
    sums = np.zeros(len(found), np.int64)
    np.add.at(sums, where.reshape(-1), totals)
    first = np.searchsorted(found, np.arange(n_rows + 1) * N_BUCKETS).astype(np.int64)
    return {"first": first, "bucket": (found % N_BUCKETS).astype(np.int32), "total": sums}


def _best(entries: State, k: int) -> State:
    """The first k entries of each row in `top_order`."""
    order = top_order(entries)[..., :k]
    return {name: np.take_along_axis(array, order, -1) for name, array in entries.items()}


def top_order(entries: State) -> NDArray[np.int64]:
    """Larger values first; ties by lower document, window and position; free slots last."""
    document, start, position = (entries[f"top.{name}"] for name in _PLACE)
    key = -float_keys(entries["top.value"]).astype(np.int64)
    return np.lexsort((position, start, document, key, document < 0), axis=-1)


# ---- Grams ----


def _merged_grams(a: State, b: State) -> State:
    dense = wide.add(a["gram"], b["gram"])
    signs = [each[..., 1] < 0 for each in (a["gram"], b["gram"], dense)]
    wrapped = np.flatnonzero(((signs[0] == signs[1]) & (signs[0] != signs[2])).reshape(-1))
    apart = [(each["gram.entry"], each["gram.wide"]) for each in (a, b)]
    if len(wrapped):
        for each in (a, b):
            values = wide.to_ints(each["gram"].reshape(-1, 2)[wrapped])
            apart.append((wrapped, wide.from_ints(values << _GRAM_UNIT, _WIDE_LIMBS)))
        dense.reshape(-1, 2)[wrapped] = 0
    return _gram(dense, apart)


def _gram(dense: NDArray[np.int64], apart: list[tuple[NDArray[Any], NDArray[Any]]]) -> State:
    """Store each entry once: in the dense array if it fits, else among the wide ones."""
    totals: dict[int, int] = {}
    flat = dense.reshape(-1, 2)
    for entries, limbs in apart:
        for entry, value in zip(entries.tolist(), wide.to_ints(limbs).tolist(), strict=True):
            totals[entry] = totals.get(entry, 0) + value
    kept = {}
    for entry, value in totals.items():
        value += int(wide.to_ints(flat[entry])) << _GRAM_UNIT
        whole, rest = value >> _GRAM_UNIT, value & ((1 << _GRAM_UNIT) - 1)
        fits = not rest and -(1 << 127) <= whole < 1 << 127
        flat[entry] = wide.from_ints(np.array(whole if fits else 0, object), 2)
        if not fits:
            kept[entry] = value
    entries = np.array(sorted(kept), np.int64)
    values = np.empty(len(entries), object)
    values[:] = [kept[entry] for entry in entries.tolist()]
    return {
        "gram": dense,
        "gram.entry": entries,
        "gram.wide": wide.from_ints(values, _WIDE_LIMBS),
    }


def gram_ints(state: State) -> NDArray[Any]:
    """The lower triangle of a single group in units of 2^-149, as Python integers."""
    found = wide.to_ints(state["gram"][0]) << _GRAM_UNIT
    found[state["gram.entry"]] = wide.to_ints(state["gram.wide"])
    return found


# ---- validation of a state that was read ----


def fault_of(state: State, chosen: Chosen) -> str | None:
    """The first contradiction in a state whose arrays have the right shapes; None if consistent."""
    count = state["count"]
    if (count < 0).any() or (count[..., 1] > count[..., 0]).any():
        return "count has numbers that cannot be"
    finite = count[..., 0]
    if chosen.range:
        low, high = state["range"][..., 0], state["range"][..., 1]
        none = np.isposinf(low) & np.isneginf(high)
        some = np.isfinite(low) & np.isfinite(high) & (low <= high)
        if not np.where(finite > 0, some, none).all():
            return "range is not that of its count"
    if chosen.moments and (fault := _moments_fault(state)):
        return fault
    if chosen.histogram and (fault := _histogram_fault(state)):
        return fault
    if chosen.thetas and ((state["fires"] < 0) | (state["fires"] > finite[..., None])).any():
        return "fires is not between 0 and its count"
    if chosen.top and (fault := _top_fault(state)):
        return fault
    if chosen.gram:
        entry = state["gram.entry"]
        n = state["gram"].shape[0] * state["gram"].shape[1]
        if len(entry) != len(state["gram.wide"]) or (state["gram.rows"] < 0).any():
            return "gram.entry and gram.wide differ in length, or gram.rows is negative"
        if len(entry) and (entry[0] < 0 or entry[-1] >= n or (np.diff(entry) <= 0).any()):
            return "gram.entry does not rise within the triangle"
        again = _gram(state["gram"].copy(), [(entry, state["gram.wide"])])
        if (state["gram"].reshape(-1, 2)[entry] != 0).any() or len(again["gram.entry"]) != len(
            entry
        ):
            return "gram.entry keeps what belongs into gram"
    return None


def _moments_fault(state: State) -> str | None:
    """Power sums that no numbers can have, such as those of a negative variance."""
    sums = [wide.to_ints(state[name]).reshape(-1).tolist() for name in LIMBS]
    counts = state["count"][..., 0].reshape(-1).tolist()
    for row, each in enumerate(zip(counts, *sums, strict=True)):
        if fault := exact.fault_of(*each):
            return f"{fault} of channel {row % state['count'].shape[1]} cannot be"
    return None


def _histogram_fault(state: State) -> str | None:
    first, bucket, total = state["first"], state["bucket"], state["total"]
    n = len(bucket)
    if len(total) != n or first[0] != 0 or first[-1] != n or (np.diff(first) < 0).any():
        return "the histogram's rows do not add up"
    keys = rows_of(state) * N_BUCKETS + bucket
    if (
        ((bucket < 0) | (bucket >= N_BUCKETS)).any()
        or (total <= 0).any()
        or (np.diff(keys) <= 0).any()
    ):
        return "the histogram's buckets are not what they can be"
    sums = np.concatenate([[0], np.cumsum(total)])
    if (np.diff(sums[first]) != state["count"][..., 0].reshape(-1)).any():
        return "the histogram's totals are not its count"
    return None


def _top_fault(state: State) -> str | None:
    top = {name: state[name] for name in state if name.startswith("top.")}
    k = top["top.value"].shape[-1]
    used = np.arange(k) < np.minimum(state["count"][..., :1], k)
    document, start, position = (top[f"top.{name}"] for name in _PLACE)
    places = (document >= 0) & (start >= 0) & (position >= 0) & np.isfinite(top["top.value"])
    free = (document == -1) & (start == -1) & (position == -1) & (float_keys(top["top.value"]) == 0)
    if not np.where(used, places, free).all():
        return "top has places that cannot be"
    if (top_order(top) != np.arange(k)).any():
        return "top is not sorted"
    return None
