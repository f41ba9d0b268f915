"""The maths of attention from files alone, in plain NumPy.

`attention` is written to be read and ported: every line is one formula, followed by the shape of
its result. It needs the files of a run (`llamaprobe run --out`) and the weights as files
(`llamaprobe weights`), nothing else: T tokens, D = d_model, H = n_heads, K = n_kv_heads, h =
head_dim all come from meta_layer{i}.json.
"""

import errno
import functools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from .checkpoint.tensor_names import EMBEDDING, HEAD
from .errors import ArgumentError, FileError, FormatError
from .files.array import read
from .files.encode import SUFFIXES
from .files.paths import checked_path
from .messages import printable, shown_path
from .saved.manifest import MANIFEST, read_json

Folder = str | os.PathLike[str]
_WORDS = (np.uint8, np.uint16)  # what raw floats are exported as


def attention(
    run_folder: str | Path, weight_folder: str | Path, layer: int
) -> dict[str, np.ndarray]:
    """q, k, v, q_rope, k_rope, scores, pattern and z of one layer as float32, from xnorm_layer{i},
    meta_layer{i} and the exported weights. Shapes as in docs/points.md: q [T, H, h], k and v [T, K,
    h], pattern [H, T, T].

    Formulas: Vaswani et al. 2017 (attention), Su et al. 2021 (RoPE), Ainslie et al. 2023 (grouped
    queries). Raises OSError (a file is missing) and FormatError.
    """
    meta = json.loads((Path(run_folder) / f"meta_layer{layer}.json").read_text())
    D, H, K, h = meta["d_model"], meta["num_heads"], meta["num_kv_heads"], meta["head_dim"]

    def weight(name):
        return load(weight_folder, f"model.layers.{layer}.self_attn.{name}")

    def project(x, name, n_heads):
        y = x @ weight(f"{name}_proj.weight").T  # [T, n_heads * h]; weights are [out, in]
        if meta["attention_bias"]:
            y = y + weight(f"{name}_proj.bias")
        return y.reshape(len(x), n_heads, h)

    x_norm = load(run_folder, f"xnorm_layer{layer}").reshape(-1, D)  # [T, D]
    q = project(x_norm, "q", H)  # [T, H, h]
    k = project(x_norm, "k", K)  # [T, K, h]
    v = project(x_norm, "v", K)  # [T, K, h]

    position = np.array(meta["position_ids"], np.float32).reshape(-1, 1)  # [T, 1]
    angle = position * np.array(meta["inv_freq"], np.float32)  # [T, h / 2]
    cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]  # [T, 1, h / 2]

    def rotate(y):  # number i turns together with number i + h / 2
        a, b = y[..., : h // 2], y[..., h // 2 :]
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)

    q_rope, k_rope = rotate(q), rotate(k)

    keys = np.repeat(k_rope, H // K, axis=1)  # [T, H, h]; query head j uses kv head j // (H / K)
    values = np.repeat(v, H // K, axis=1)  # [T, H, h]
    scores = np.einsum("qhi,khi->hqk", q_rope, keys) * np.float32(
        meta["attention_scale"]
    )  # [H, T, T]
    scores = np.where(np.tri(len(x_norm), dtype=bool), scores, -np.inf)  # no query sees a later key
    e = np.exp(scores - scores.max(axis=-1, keepdims=True))
    pattern = e / e.sum(axis=-1, keepdims=True)  # [H, T, T]
    z = np.einsum("hqk,khi->qhi", pattern, values)  # [T, H, h]
    rotated = {"q_rope": q_rope, "k_rope": k_rope}
    return {"q": q, "k": k, "v": v, **rotated, "scores": scores, "pattern": pattern, "z": z}


def _checked(formulas: Callable[..., Any]) -> Callable[..., Any]:
    """Checks the arguments first, so that the listing above is the maths alone."""

    @functools.wraps(formulas)
    def attention(run_folder: Folder, weight_folder: Folder, layer: int) -> dict[str, np.ndarray]:
        run_folder, weight_folder = checked_path(run_folder), checked_path(weight_folder)
        meta = _read_meta(run_folder / f"meta_layer{layer}.json")
        D, H, K, h = meta["d_model"], meta["num_heads"], meta["num_kv_heads"], meta["head_dim"]
        shapes: dict[str, dict[str, tuple[int, ...]]] = {
            "weight": {"q": (H * h, D), "k": (K * h, D), "v": (K * h, D)},
            "bias": {"q": (H * h,), "k": (K * h,), "v": (K * h,)},
        }
        for kind in ("weight", "bias") if meta["attention_bias"] else ("weight",):
            for name, shape in shapes[kind].items():
                stem = f"model.layers.{layer}.self_attn.{name}_proj.{kind}"
                _check_shape(weight_folder, stem, shape)
        _check_shape(run_folder, f"xnorm_layer{layer}", (1, len(meta["position_ids"]), D))
        return formulas(run_folder, weight_folder, layer)

    return attention


attention = _checked(attention)


def _read_meta(path: Path) -> dict[str, Any]:
    """The numbers of a layer, checked as far as the formulas need them. FileError, FormatError."""
    meta = read_json(path)
    if (family := meta.get("family", "llama")) != "llama":
        raise FormatError(
            f"{shown_path(path)}: only a Llama is redone here, not {printable(str(family), 60)}"
        )
    sizes: list[Any] = [
        meta.get(key) for key in ("d_model", "num_heads", "num_kv_heads", "head_dim")
    ]
    if not all(type(n) is int and 0 < n < 2**31 for n in sizes):
        raise FormatError(
            f"{shown_path(path)}: d_model, num_heads, num_kv_heads, head_dim are not sizes"
        )
    lists = [meta.get(key) for key in ("position_ids", "inv_freq")]
    numbers = [n for each in lists if isinstance(each, list) for n in each]
    if not all(isinstance(each, list) for each in lists) or not all(map(_is_number, numbers)):
        raise FormatError(f"{shown_path(path)}: position_ids, inv_freq are not lists of numbers")
    if sizes[1] % sizes[2] or sizes[3] != 2 * len(meta["inv_freq"]):
        raise FormatError(
            f"{shown_path(path)}: the numbers of heads, kv heads and inv_freq disagree"
        )
    if not _is_number(meta.get("attention_scale")) or type(meta.get("attention_bias")) is not bool:
        raise FormatError(f"{shown_path(path)}: attention_scale or attention_bias is damaged")
    return meta


def _check_shape(folder: Path, stem: str, shape: tuple[int, ...]) -> None:
    """FormatError for a file whose numbers have another shape."""
    values = load(folder, stem)
    if shape not in (values.shape, (1, *values.shape)):
        raise FormatError(
            f"{shown_path(folder)}: {stem} is {list(values.shape)}, and the numbers of the layer"
            f" need {list(shape)}"
        )


def _is_number(value: object) -> bool:
    return type(value) in (int, float)


def load(folder: str | Path, stem: str) -> np.ndarray:
    """The numbers of a file in any format: `stem` with .csv, .txt, .npy or .hex.

    16-bit floats that were exported as words (npy, raw) become float32, which holds them exactly;
    integers stay integers. The shape and dtype of a file without its first line come from the
    manifest beside it. Raises FileError (there is no such file) and FormatError (words of unknown
    dtype).
    """
    for suffix in SUFFIXES.values():
        path = checked_path(folder) / (stem + suffix)
        if os.path.exists(path):
            values = _read(path)
            return _widen(values, path) if values.dtype in _WORDS else values
    tied = f"; if the head is tied, it is {EMBEDDING}" if stem == HEAD else ""
    *others, last = SUFFIXES.values()
    suffixes = f"{', '.join(others)} or {last}"
    message = f"{shown_path(folder)}: has no {printable(stem)}{suffixes}{tied}"
    raise FileError(message, errno.ENOENT, os.path.join(folder, f"{stem}.csv"))


def _read(path: Path) -> np.ndarray:
    try:
        return read(path)
    except FormatError:
        manifest, entry = _manifest_of(path)
        if manifest.get("header") is not False and entry.get("header") is not False:
            raise
        try:
            return read(path, shape=entry.get("shape"), dtype=entry.get("dtype"))
        except ArgumentError as error:
            raise FormatError(f"{shown_path(path.parent / MANIFEST)}: {error}") from error


def _manifest_of(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The manifest beside a file and its entry for it; empty where there is none."""
    beside = path.parent / MANIFEST
    manifest = read_json(beside) if os.path.exists(beside) else {}
    files = manifest.get("files")
    entry = files.get(path.name) if isinstance(files, dict) else None
    return manifest, entry if isinstance(entry, dict) else {}


def _widen(words: np.ndarray, path: Path) -> np.ndarray:
    """uint16 words as the float32 that they mean, by the dtype in the manifest beside them;
    integers as they are."""
    dtype = _manifest_of(path)[1].get("source_dtype")
    if words.dtype == np.uint16 and dtype == "BF16":  # the upper half of a float32
        return (words.astype(np.uint32) << 16).view(np.float32)
    if words.dtype == np.uint16 and dtype == "F16":
        return words.view(np.float16).astype(np.float32)
    if dtype in ("U8", "U16"):
        return words
    raise FormatError(
        f"{shown_path(path)}: holds {words.dtype}, not floats, and {MANIFEST} beside it has no"
        " source_dtype to read them by; export the weights as float32"
    )
