"""Values as pandas data frames and xarray arrays; nothing else needs these libraries."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ArgumentError
from .run import texts_of

if TYPE_CHECKING:
    from ..lens.attribution import Attribution
    from ..lens.logits import Lens
    from ..run import Run


def module(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError:
        raise ArgumentError(f"to_{name} needs {name}: pip install {name}") from None


def run_dataset(run: "Run") -> Any:
    xarray = module("xarray")
    texts = texts_of(run)
    arrays = {}
    for point in run.points:
        dims = run.dims(point)
        coords: dict[str, Any] = {}
        if "layer" in dims:
            coords["layer"] = list(run.layers_of(point))
        arrays[point] = xarray.DataArray(run[point], dims=dims, coords=coords, name=point)
    data = xarray.Dataset(arrays)
    for dim in ("token", "key"):
        if dim in data.dims:
            data = data.assign_coords({f"{dim}_text": (dim, texts)})
    return data.assign_attrs(model=run.origin.model)


def token_frame(run: "Run") -> Any:
    pandas = module("pandas")
    columns: dict[str, Any] = {"token": texts_of(run), "id": run.token_ids}
    if "x" in run.points:
        for layer in run.layers_of("x"):
            x = run["x", layer].astype(np.float64)
            columns[f"x_rms_{layer}"] = np.sqrt(np.mean(x * x, axis=-1))
    frame = pandas.DataFrame(columns)
    frame.index.name = "position"
    return frame


def point_frame(run: "Run", point: str) -> Any:
    """One row per number."""
    pandas = module("pandas")
    value, dims = run[point], run.dims(point)
    index = np.indices(value.shape).reshape(value.ndim, -1)
    columns: dict[str, Any] = dict(zip(dims, index, strict=True))
    if "layer" in columns:
        columns["layer"] = np.array(run.layers_of(point))[columns["layer"]]
    texts = np.array(texts_of(run), object)
    columns["text"] = texts[columns["token"]]
    return pandas.DataFrame({**columns, "value": np.ravel(value)})


def lens_frame(lens: "Lens") -> Any:
    """One line per row, position and listed token."""
    pandas = module("pandas")
    lines = [
        {
            "row": label,
            "point": point,
            "layer": layer,
            "position": position,
            "token": text,
            "rank": rank,
            "next_id": guess.id,
            "next": guess.text,
            "logit": guess.logit,
            "logprob": guess.logprob,
        }
        for i, (label, (point, layer)) in enumerate(zip(lens.labels, lens.rows, strict=True))
        for j, (position, text) in enumerate(zip(lens.positions, lens.tokens, strict=True))
        for rank, guess in enumerate(lens.top(i, j), 1)
    ]
    return pandas.DataFrame(lines)


def lens_array(lens: "Lens") -> Any:
    coords: dict[str, Any] = {
        "layer": lens.labels,
        "token": list(lens.positions),
        "token_text": ("token", lens.tokens),
    }
    if lens.token_ids is not None:
        coords["id"] = lens.token_ids
    return module("xarray").DataArray(
        lens.logits, dims=("layer", "token", "id"), coords=coords, name="logits"
    )


# Axes of each kind of row in an attribution.
_AXES = {
    "head": ("layer", "head"),
    "neuron": ("layer", "neuron"),
    "source": ("layer", "head", "token"),
}


def attribution_frame(attribution: "Attribution") -> Any:
    pandas = module("pandas")
    texts = texts_of(attribution.run)
    frames = []
    for kind, part in attribution.parts.items():
        index = np.indices(part.shape).reshape(part.ndim, part.size)
        axes = _AXES.get(kind, ("layer",))[: part.ndim]
        columns: dict[str, Any] = {"kind": [kind] * part.size}
        columns |= dict(zip(axes, index, strict=True))
        if "token" in columns:
            columns["text"] = [texts[i] for i in columns["token"]]
        frames.append(pandas.DataFrame({**columns, "value": np.ravel(part)}))
    frames.append(pandas.DataFrame({"kind": ["rounding"], "value": [attribution.rounding]}))
    frame = pandas.concat(frames, ignore_index=True)
    integers = [name for name in ("layer", "head", "neuron", "token") if name in frame]
    return frame.astype(dict.fromkeys(integers, "Int64"))


def attribution_dataset(attribution: "Attribution") -> Any:
    xarray = module("xarray")
    a = attribution
    arrays = {
        kind: xarray.DataArray(part, dims=_AXES.get(kind, ("layer",))[: part.ndim])
        for kind, part in a.parts.items()
    }
    data = xarray.Dataset({**arrays, "rounding": a.rounding, "total": a.total})
    if "token" in data.dims:
        data = data.assign_coords({"token_text": ("token", texts_of(a.run))})
    return data.assign_attrs(by=a.by, position=a.position, token_id=a.token_id)
