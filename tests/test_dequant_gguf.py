"""Values of packed weights against other programs: gguf-py for GGUF's kinds, torch for FP8."""

from pathlib import Path

import gguf_files
import numpy as np
import pytest
from weight_files import write_safetensors

from llamaprobe import _core

DATA = Path(__file__).parent / "data"
KINDS = {  # id of the type in a file, columns and bytes of a block
    "q4_0": (2, 32, 18),
    "q4_1": (3, 32, 20),
    "q5_0": (6, 32, 22),
    "q5_1": (7, 32, 24),
    "q8_0": (8, 32, 34),
    "q2_k": (10, 256, 84),
    "q3_k": (11, 256, 110),
    "q4_k": (12, 256, 144),
    "q5_k": (13, 256, 176),
    "q6_k": (14, 256, 210),
    "iq4_nl": (20, 32, 18),
    "iq4_xs": (23, 256, 136),
}


def read(path: Path, kind: str, raw: np.ndarray) -> np.ndarray:
    """The values of a tensor with these bytes [n_rows, bytes of a row]."""
    number, columns, n_bytes = KINDS[kind]
    shape = raw.shape[0], raw.shape[1] // n_bytes * columns
    entry = gguf_files.tensor("w", shape[::-1], number)
    path.write_bytes(gguf_files.image([], [entry], raw.tobytes()))
    return _core.Packed(kind, shape, {"codes": (_core.Gguf(path), "w")}).read()


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    """Numbers have the same bits; NaN stand where NaN stand."""
    numbers = ~np.isnan(a)
    same_nan = np.array_equal(numbers, ~np.isnan(b))
    return same_nan and np.array_equal(a[numbers].view(np.uint32), b[numbers].view(np.uint32))


@pytest.mark.parametrize("kind", KINDS)
def test_recorded_values(tmp_path, kind):
    with np.load(DATA / "dequant.npz") as recorded:
        raw, values = recorded[f"{kind}.bytes"], recorded[f"{kind}.values"]
    assert same_bits(read(tmp_path / "w.gguf", kind, raw), values)


@pytest.mark.parametrize("kind", KINDS)
def test_random_bytes(tmp_path, kind):
    quants = pytest.importorskip("gguf.quants")
    raw = np.random.default_rng(26).integers(0, 256, (100, KINDS[kind][2] * 24), np.uint8)
    with np.errstate(all="ignore"):
        values = quants.dequantize(raw, quants.GGMLQuantizationType[kind.upper()])
    assert same_bits(read(tmp_path / "w.gguf", kind, raw), values)


def test_every_fp8_code(tmp_path):
    torch = pytest.importorskip("torch")
    codes = np.tile(np.arange(256, dtype=np.uint8), (7, 3))
    scales = np.array([1, 0.0173, -3e-5, 2.0**-149, 2.0**-126, 300, np.inf], np.float32)[:, None]
    path = tmp_path / "w.safetensors"
    parts = {"w": ("F8_E4M3", codes), "s": ("F32", scales)}
    write_safetensors(
        path, {name: (d, list(a.shape), a.tobytes()) for name, (d, a) in parts.items()}
    )
    file = _core.Safetensors(path)
    tensors = {"codes": (file, "w"), "scales": (file, "s")}
    packed = _core.Packed("fp8", codes.shape, tensors, scale_rows=1)
    values = torch.from_numpy(codes).view(torch.float8_e4m3fn).to(torch.float32).numpy()
    with np.errstate(all="ignore"):
        assert same_bits(packed.read(), values * scales)
