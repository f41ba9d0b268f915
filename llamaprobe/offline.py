"""The maths of a layer again, from files alone, in plain NumPy.

`attention` is written to be read and to be ported: every line is one formula, with the shape of its
result behind it. It needs the files of a run (`llamaprobe run --out`) and the weights as files
(`llamaprobe weights`), nothing else: T tokens, D = d_model, H = n_heads, K = n_kv_heads, h =
head_dim all come from meta_layer{i}.json.
"""

import json
import os
from pathlib import Path

import numpy as np

from .array_file import read
from .errors import FileError, FormatError
from .files import MANIFEST, read_json
from .tensor_names import EMBEDDING, HEAD

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


def load(folder: str | Path, stem: str) -> np.ndarray:
    """The numbers of a file without saying its format: `stem` with .csv, .txt, .npy or .hex.

    16-bit floats that were exported as words (npy, raw) become float32, which holds them exactly;
    integers stay what they are. Raises FileError (there is no such file) and FormatError (words that
    nothing says the dtype of).
    """
    for suffix in (".csv", ".txt", ".npy", ".hex"):
        path = Path(folder) / (stem + suffix)
        if os.path.exists(path):
            values = read(path)
            return _widen(values, path) if values.dtype in _WORDS else values
    tied = f"; if the head is tied, it is {EMBEDDING}" if stem == HEAD else ""
    raise FileError(f"{folder}: holds no {stem}.csv, .txt, .npy or .hex{tied}")


def _widen(words: np.ndarray, path: Path) -> np.ndarray:
    """uint16 words as the float32 that they stand for; the manifest beside them says which kind, or
    that they are integers."""
    manifest = path.parent / MANIFEST
    files = read_json(manifest).get("files") if os.path.exists(manifest) else None
    entry = files.get(path.name) if isinstance(files, dict) else None
    dtype = entry.get("source_dtype") if isinstance(entry, dict) else None
    if words.dtype == np.uint16 and dtype == "BF16":  # the upper half of a float32
        return (words.astype(np.uint32) << 16).view(np.float32)
    if words.dtype == np.uint16 and dtype == "F16":
        return words.view(np.float16).astype(np.float32)
    if dtype in ("U8", "U16"):
        return words
    raise FormatError(
        f"{path}: holds {words.dtype}, not floats, and {MANIFEST} beside it does not say of which"
        " dtype they are the words; export the weights as float32"
    )
