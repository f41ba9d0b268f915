"""Data frames and datasets of results from several runs: sweeps, diffs, statistics."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from .tables import module

if TYPE_CHECKING:
    from ..comparison import Diff
    from ..stats.channels import Channels
    from ..stats.stats import Stats
    from ..sweeps.result import Sweep


def sweep_frame(sweep: "Sweep") -> Any:
    """One row per cell."""
    values, names = sweep.values, ("layer", "position", "head")
    index = np.indices(values.shape).reshape(values.ndim, -1)
    columns: dict[str, Any] = dict(zip(names, index, strict=False))
    if values.ndim == 1:
        columns = {"cell": index[0]}
    else:
        columns["layer"] = np.array(sweep.layers)[index[0]]
        columns["position"] = np.array(sweep.positions)[index[1]]
        if sweep.tokens is not None:
            columns["text"] = np.array(sweep.tokens, object)[index[1]]
    columns["value"] = values.ravel()
    if sweep.clean is not None and sweep.clean != sweep.base:
        columns["normalized"] = sweep.normalized.ravel()
    return module("pandas").DataFrame(columns)


def sweep_array(sweep: "Sweep") -> Any:
    facts = {"base": sweep.base, "clean": sweep.clean}
    dims: tuple[str, ...] = ("cell",)
    coords: dict[str, Any] = {}
    if sweep.values.ndim > 1:
        dims = ("layer", "token", "head")[: sweep.values.ndim]
        coords = {"layer": list(sweep.layers), "token": list(sweep.positions)}
        if sweep.tokens is not None:
            coords["token_text"] = ("token", sweep.tokens)
    attrs = {name: value for name, value in facts.items() if value is not None}
    return module("xarray").DataArray(
        sweep.values, dims=dims, coords=coords, attrs=attrs, name="metric"
    )


_NUMBERS = ("n_different", "largest", "relative")


def diff_frame(diff: "Diff") -> Any:
    """One row per value that both runs have."""
    pandas = module("pandas")
    names = ("point", "layer", "n_different", "n_values", "largest", "relative")
    columns: dict[str, Any] = {n: [getattr(one, n) for one in diff.values] for n in names}
    columns["n_tokens"] = [len(one.rows) for one in diff.values]
    columns["first_token"] = [int(one.rows[0]) if len(one.rows) else None for one in diff.values]
    return pandas.DataFrame(columns).astype({"layer": "Int64", "first_token": "Int64"})


def diff_dataset(diff: "Diff") -> Any:
    places = [(one.point, one.layer) for one in diff.values if one.layer is not None]
    points, layers = list(dict.fromkeys(p for p, _ in places)), sorted({i for _, i in places})
    data = module("xarray").Dataset(coords={"point": points, "layer": layers})
    for name in _NUMBERS:
        table = np.full((len(points), len(layers)), np.nan)
        for one in diff.values:
            if one.layer is not None:
                table[points.index(one.point), layers.index(one.layer)] = getattr(one, name)
        data[name] = (("point", "layer"), table)
    return data


def channels_frame(channels: "Channels") -> Any:
    """One row per channel."""
    index = np.indices(channels.shape).reshape(len(channels.shape), -1)
    columns: dict[str, Any] = dict(zip(channels.dims, index, strict=True))
    columns |= {name: np.ravel(values) for name, values in channels.columns().items()}
    return module("pandas").DataFrame(columns)


def channels_dataset(channels: "Channels") -> Any:
    arrays = {name: (channels.dims, values) for name, values in channels.columns().items()}
    return module("xarray").Dataset(arrays, attrs={"name": channels.name, "group": channels.group})


def _targets(stats: "Stats") -> Iterator[tuple[str, int | None, str]]:
    """(target, layer, point)."""
    for name in stats.targets:
        entry = stats.facts["targets"][name]
        yield name, entry["layer"], entry["point"]


def stats_frame(stats: "Stats") -> Any:
    """One row per channel, group and target."""
    pandas = module("pandas")
    frames = []
    for target, layer, point in _targets(stats):
        for group in stats.groups:
            frame = channels_frame(stats.channels(target, group))
            where = {"point": point, "layer": layer, "group": group}
            for place, (name, value) in enumerate(where.items()):
                frame.insert(place, name, value)
            frames.append(frame.astype({"layer": "Int64"}))
    whole = pandas.concat(frames, ignore_index=True)
    axes = list(dict.fromkeys(axis for target in stats for axis in stats[target].dims))
    names = ["point", "layer", "group", *axes]
    whole = whole[[*names, *whole.columns.difference(names, sort=False)]]
    return whole.astype(dict.fromkeys(axes, "Int64"))


def stats_dataset(stats: "Stats") -> Any:
    xarray = module("xarray")
    found: dict[str, list[Any]] = {}
    for target, layer, point in _targets(stats):
        groups = [stats.channels(target, group) for group in stats.groups]
        columns = [group.columns() for group in groups]
        for name in columns[0]:
            values = np.stack([each[name] for each in columns])
            dims, coords = ("group", *groups[0].dims), {"group": list(stats.groups)}
            array = xarray.DataArray(values, dims=dims, coords=coords)
            if layer is not None:
                array = array.expand_dims(layer=[layer])
            found.setdefault(f"{point}_{name}", []).append(array)
    arrays = {
        name: each[0] if "layer" not in each[0].dims else xarray.concat(each, "layer")
        for name, each in found.items()
    }
    return xarray.Dataset(arrays)
