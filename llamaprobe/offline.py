"""The maths of attention from files alone, in plain NumPy.

`attention` is written to be read and ported: every line is one formula, followed by the shape of
its result. It needs the files of a run (`llamaprobe run --out`) and the weights as files
(`llamaprobe weights`), nothing else: T tokens, D = d_model, H = n_heads, K = n_kv_heads, h =
head_dim all come from meta_layer{i}.json. `attention_of_family` does the same for a model that has
more than a Llama, and `attention` calls it there.
"""

import errno
import functools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from . import maths
from .arguments import instance, whole
from .checkpoint.tensor_names import EMBEDDING, HEAD
from .errors import ArgumentError, FileError, FormatError
from .files.array import read
from .files.encode import SUFFIXES
from .files.paths import checked_path
from .messages import printable, shown_path
from .saved.manifest import MANIFEST, read_json

__all__ = ["attention", "attention_of_family", "load"]

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


def attention_of_family(
    run_folder: str | Path, weight_folder: str | Path, layer: int
) -> dict[str, np.ndarray]:
    """The same of any model, with q_norm, k_norm and scores_raw of one that has them: fused
    matrices, norms of q and k, tables of RoPE by layer, windows, a cap of scores. Shapes
    and errors are those of `attention`."""
    meta = json.loads((Path(run_folder) / f"meta_layer{layer}.json").read_text())
    D, H, K, h = meta["d_model"], meta["num_heads"], meta["num_kv_heads"], meta["head_dim"]
    norms, linears, n_rows = meta["norms"], meta["linears"], {"q": H * h, "k": K * h, "v": K * h}

    def weight(module, kind="weight"):
        return load(weight_folder, f"{meta['prefix']}model.layers.{layer}.{module}.{kind}")

    def project(point):  # points of one matrix are ranges of its rows, in the order q, k, v
        module = linears[point]
        above = [n_rows[p] for p in "qkv"[: "qkv".index(point)] if linears[p] == module]
        rows = slice(sum(above), sum(above) + n_rows[point])
        y = x @ weight(module)[rows].T  # [T, n_heads * h]
        if meta["attention_bias"]:
            y = y + weight(module, "bias")[rows]
        return y.reshape(len(x), -1, h)

    def norm(y, point):  # over each head, or over all heads of a token at once
        if point not in norms:
            return y
        rows = y.reshape(len(y), 1, -1) if meta["qk_norm_whole"] else y
        unit = rows / maths.rms(rows, meta["rms_norm_eps"])[..., None]
        return ((weight(norms[point]) + np.float32(meta["gain_offset"])) * unit).reshape(y.shape)

    def rotate(y):
        number, n_tokens = meta["rope_table_of_layer"][layer], meta.get("rope_length", len(x))
        if number is None:
            return y
        rope = meta["rope_tables"][number]
        is_long = rope["long_inv_freq"] and n_tokens > rope["original_positions"]
        inv_freq = np.array(rope["long_inv_freq" if is_long else "inv_freq"], np.float32)
        return maths.rotate(y, inv_freq, rope["attention_factor"], meta["rope_interleaved"])

    name = "xnorm" if "x_norm" in norms else "x"  # without a norm of its input, attention reads x
    x = load(run_folder, f"{name}_layer{layer}").reshape(-1, D)  # [T, D]
    q, k, v = project("q"), project("k"), project("v")  # [T, H, h], [T, K, h], [T, K, h]
    q_norm, k_norm = norm(q, "q_norm"), norm(k, "k_norm")
    q_rope, k_rope = rotate(q_norm), rotate(k_norm)

    cap, seen = meta["score_cap"], maths.seen(len(x), meta["window_of_layer"][layer])
    raw = maths.scores(q_rope, k_rope, meta["attention_scale"])  # [H, T, T]
    scores_raw = np.where(seen, raw, -np.inf)
    scores = np.where(seen, maths.cap(raw, cap), -np.inf)
    pattern = maths.softmax(scores)  # [H, T, T]
    z = maths.mix(pattern, v)  # [T, H, h]
    normed = {p: y for p, y in (("q_norm", q_norm), ("k_norm", k_norm)) if p in norms}
    rotated = {"q_rope": q_rope, "k_rope": k_rope}
    maps = ({"scores_raw": scores_raw} if cap else {}) | {"scores": scores, "pattern": pattern}
    return {"q": q, "k": k, "v": v, **normed, **rotated, **maps, "z": z}


def _checked(formulas: Callable[..., Any]) -> Callable[..., Any]:
    """Checks the arguments first, so that the listing above is the maths alone."""

    @functools.wraps(formulas)
    def attention(run_folder: Folder, weight_folder: Folder, layer: int) -> dict[str, np.ndarray]:
        run_folder, weight_folder = checked_path(run_folder), checked_path(weight_folder)
        layer = whole("layer", layer, 0)
        meta = _read_meta(run_folder / f"meta_layer{layer}.json")
        if "family" in meta:
            _check_family(run_folder, weight_folder, layer, meta)
            return attention_of_family(run_folder, weight_folder, layer)
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
    whole_heads = "family" in meta or sizes[3] == 2 * len(meta["inv_freq"])
    if sizes[1] % sizes[2] or not whole_heads:
        raise FormatError(
            f"{shown_path(path)}: the numbers of heads, kv heads and inv_freq disagree"
        )
    if not _is_number(meta.get("attention_scale")) or type(meta.get("attention_bias")) is not bool:
        raise FormatError(f"{shown_path(path)}: attention_scale or attention_bias is damaged")
    return meta


def _check_family(run_folder: Path, weight_folder: Path, layer: int, meta: dict[str, Any]) -> None:
    """The numbers that the formulas need must be those of the config in the manifest, and arrays
    have their shapes. FileError, FormatError."""
    from .families.meta import family_meta
    from .families.tensors import layer_prefix, tensors
    from .saved.read import Saved

    saved = Saved(run_folder)
    config = saved.config()
    n_tokens = len(saved.token_ids)
    held = {
        **family_meta(config),
        **{key: getattr(config, key) for key in ("d_model", "head_dim", "rms_norm_eps")},
        **{key: getattr(config, key) for key in ("attention_scale", "attention_bias")},
        **{"num_heads": config.n_heads, "num_kv_heads": config.n_kv_heads},
        **{"rope_length": saved.rope_length, "position_ids": list(range(n_tokens))},
    }
    wrong = [key for key, value in held.items() if meta.get(key) != value]
    if wrong or not 0 <= layer < config.n_layers:
        raise FormatError(
            f"{shown_path(run_folder)}: {wrong[0] if wrong else 'the number'} of layer {layer} does"
            f" not fit the config in {MANIFEST}"
        )
    for name, shape, point, _ in tensors(config):
        if point in ("q", "k", "v", "q_norm", "k_norm"):
            _check_shape(weight_folder, layer_prefix(config, layer) + name, shape)
    name = "xnorm" if "x_norm" in config.norms else "x"
    _check_shape(run_folder, f"{name}_layer{layer}", (1, n_tokens, config.d_model))


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
    manifest beside it. Raises FileError (there is no such file), ArgumentError and FormatError
    (words of unknown dtype).
    """
    instance("stem", stem, str, "the name of a file without its ending")
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
    entry = _manifest_of(path)[1]
    if "part" in entry:  # of a quantised weight
        return words
    dtype = entry.get("source_dtype")
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
