"""Files that llama.cpp's own quantiser made: values as gguf-py has them, and the run of those values.

tests/data/README.md says how they were made. The hashes are of gguf-py's values, so they hold without gguf-py too.
"""

import hashlib
from pathlib import Path

import models
import numpy as np
import pytest

import llamaprobe as lp

DATA = Path(__file__).parent / "data"
HEAD_DIM = 64
# file -> (kinds, sha256 of all values, tensor after tensor in the order of the file, in the original's order of rows)
FILES = {
    "iq4_xs": (
        {"iq4_xs", "q6_k", "f32"},
        "fb7fd68f518cad4c0c4e6dbfeb6caa05655767f824ecb547915d5f03dd9b1513",
    ),
    "q2_k": (
        {"q2_k", "q3_k", "q6_k", "f32"},
        "de6660d762da3d2a130499e4907b6a7f4b5662bdae7e45b46ac22898b293c5ee",
    ),
    "q3_k_m": (
        {"q3_k", "q4_k", "q5_k", "q6_k", "f32"},
        "696303eb2c51fd9eb2e005ed540c1a56f8d31765c7695f630e1b1f509814e31e",
    ),
}


def opened(name: str) -> lp.Model:
    return lp.load(DATA / f"llama_cpp_{name}.gguf")


def digest(values: dict[str, np.ndarray]) -> str:
    joined = hashlib.sha256()
    for name in sorted(values):
        joined.update(name.encode() + np.ascontiguousarray(values[name], "<f4").tobytes())
    return joined.hexdigest()


def values_of(model: lp.Model) -> dict[str, np.ndarray]:
    return {name: np.asarray(model.weights[name]) for name in model.weights}


@pytest.mark.parametrize("name", FILES)
def test_values_are_those_of_gguf_py(name: str):
    kinds, recorded = FILES[name]
    model = opened(name)
    assert set(model.quantization.tensors.values()) == kinds
    assert digest(values_of(model)) == recorded


@pytest.mark.parametrize("name", FILES)
def test_the_recorded_values_are_those_of_gguf_py_here(name: str):
    gguf = pytest.importorskip("gguf")
    model = opened(name)
    for tensor in gguf.GGUFReader(DATA / f"llama_cpp_{name}.gguf").tensors:
        expected = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        if "attn_q." in tensor.name or "attn_k." in tensor.name:
            # rows 2 j + s of a head were j + s * HEAD_DIM / 2
            expected = expected.reshape(-1, HEAD_DIM // 2, 2, expected.shape[-1]).swapaxes(1, 2)
        got = np.asarray(model.weights[tensor.name])
        assert np.array_equal(got.view("<u4"), expected.reshape(got.shape).view("<u4")), tensor.name


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("n_tokens", [1, 9])
def test_a_run_is_that_of_the_values(name: str, n_tokens: int, tmp_path: Path):
    model, ids = opened(name), np.arange(n_tokens)
    keys = models.k_quant_config()
    folder = models.write_checkpoint(tmp_path / "whole", keys, values_of(model), "F32", 1, False)
    got, expected = (each.run(ids, points="all") for each in (model, lp.load(folder)))
    for point in expected.points:
        assert np.array_equal(got[point], expected[point], equal_nan=True), point
