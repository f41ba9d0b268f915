"""Records what the libraries of quantised formats dequantise, so that tests need none of them.

    pip install torch==2.13.0 transformers==5.24.0
    pip install --no-deps compressed-tensors==0.20.1 autoawq==0.2.9 auto-gptq==0.7.1
    python tools/record_quantised.py

Writes tests/data/quantised.npz: for each case the stored tensors of a matrix of 32 x 48 under
"<case>/<last word of the name>/<dtype>", and "<case>/values", what the library makes of them with
its scales in float32: in their own dtype it would round again. Codes, scales and zeros are random.
"""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

DATA = Path(__file__).parent.parent / "tests" / "data"
ROWS, COLS, GROUP = 32, 48, 16


def main() -> None:
    random = torch.Generator().manual_seed(26)
    arrays: dict[str, np.ndarray] = {}
    for name, make in CASES.items():
        parts, values = make(random)
        for suffix, tensor in parts.items():
            dtype, words = stored(tensor)
            arrays[f"{name}/{suffix}/{dtype}"] = words
        arrays[f"{name}/values"] = values.to(torch.float32).contiguous().numpy()
    np.savez_compressed(DATA / "quantised.npz", **arrays)


def stored(tensor: torch.Tensor) -> tuple[str, np.ndarray]:
    """The name of a dtype in safetensors, and the elements as integers or floats of NumPy."""
    names = {
        torch.float8_e4m3fn: ("F8_E4M3", torch.uint8),
        torch.bfloat16: ("BF16", torch.int16),
        torch.float16: ("F16", torch.float16),
        torch.float32: ("F32", torch.float32),
        torch.int8: ("I8", torch.int8),
        torch.int32: ("I32", torch.int32),
        torch.int64: ("I64", torch.int64),
    }
    name, words = names[tensor.dtype]
    return name, tensor.contiguous().view(words).numpy()


def module_of(package: str, path: str) -> ModuleType:
    """A file of a package that cannot be imported as a whole without a GPU."""
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        sys.exit(f"{package} is not installed")
    file = Path(found.submodule_search_locations[0]) / path
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def scales_of(shape: tuple[int, ...], dtype: torch.dtype, random: torch.Generator) -> torch.Tensor:
    return (torch.rand(shape, generator=random) / 64 + 0.001).to(dtype)


def integers(low: int, high: int, shape: tuple[int, ...], random: torch.Generator) -> torch.Tensor:
    return torch.randint(low, high, shape, generator=random, dtype=torch.int32)


def codes_of_fp8(random: torch.Generator) -> torch.Tensor:
    codes = integers(0, 256, (ROWS, COLS), random).to(torch.uint8)
    codes[codes & 127 == 127] = 0  # not a number
    return codes.view(torch.float8_e4m3fn)


# ---- compressed-tensors ----


def compressed(
    dtype: torch.dtype,
    strategy: str,
    scale: torch.dtype,
    bits: int = 8,
    zeros: bool = False,
    **more: Any,
) -> Any:
    def make(random: torch.Generator) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32
        from compressed_tensors.quantization import QuantizationArgs
        from compressed_tensors.quantization.lifecycle.forward import dequantize

        kind = "float" if dtype == torch.float8_e4m3fn else "int"
        args = QuantizationArgs(
            num_bits=bits, type=kind, strategy=strategy, symmetric=not zeros, **more
        )
        shape = {"tensor": (1,), "channel": (ROWS, 1), "group": (ROWS, COLS // GROUP)}
        shape["block"] = (-(-ROWS // 32), -(-COLS // 32))
        scales = scales_of(shape[strategy], scale, random)
        half = 1 << (bits - 1)
        codes = (
            codes_of_fp8(random)
            if kind == "float"
            else integers(-half, half, (ROWS, COLS), random).to(torch.int8)
        )
        offset = integers(-half, half, shape[strategy], random).to(torch.int8)
        values = dequantize(
            codes.to(torch.float32),
            scales.to(torch.float32),
            offset.to(torch.float32) if zeros else None,
            args,
            dtype=torch.float32,
        )
        if dtype != torch.int32:
            parts = {"weight": codes, "weight_scale": scales}
            return parts | ({"weight_zero_point": offset} if zeros else {}), values
        parts = {
            "weight_packed": pack_to_int32(codes, bits),
            "weight_scale": scales,
            "weight_shape": torch.tensor([ROWS, COLS]),
        }
        if zeros:
            parts["weight_zero_point"] = pack_to_int32(offset, bits, packed_dim=0)
        return parts, values

    return make


# ---- fp8 of transformers ----


def fp8_blocks(random: torch.Generator) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    from transformers.integrations.finegrained_fp8 import Fp8Dequantize

    codes, scales = codes_of_fp8(random), scales_of((2, 3), torch.float32, random)
    values = Fp8Dequantize(None)._dequantize_one(codes, scales, torch.float32)
    return {"weight": codes, "weight_scale_inv": scales}, values


# ---- GPTQ and AWQ ----


def gptq(bits: int, order: bool) -> Any:
    """`QuantLinear` times the identity. The class that takes an order of columns does not take the
    rest of a zero that is stored less one, so no zero is 0 there."""

    def make(random: torch.Generator) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        name = "qlinear_cuda" if order else "qlinear_cuda_old"
        linear = module_of("auto_gptq", f"nn_modules/qlinear/{name}.py").QuantLinear
        layer = linear(bits, GROUP, COLS, ROWS, False, weight_dtype=torch.float32)
        words = (1 << 31) - 1
        layer.qweight = integers(-words, words, (COLS * bits // 32, ROWS), random)
        zeros = integers(0, 1 << bits, (COLS // GROUP, ROWS), random).numpy()
        if order:
            zeros[zeros == (1 << bits) - 1] = 1
        fields = zeros.reshape(COLS // GROUP, -1, 32 // bits).astype(np.uint32)
        shifted = fields << np.arange(0, 32, bits, dtype=np.uint32)
        layer.qzeros = torch.from_numpy(np.bitwise_or.reduce(shifted, axis=-1).view(np.int32))
        scales = scales_of((COLS // GROUP, ROWS), torch.float16, random)
        layer.scales = scales.to(torch.float32)
        group_of = torch.arange(COLS, dtype=torch.int32) // GROUP
        if order:
            group_of = group_of[torch.randperm(COLS, generator=random)]
        layer.g_idx = group_of
        values = layer(torch.eye(COLS)).T
        parts = {"qweight": layer.qweight, "qzeros": layer.qzeros, "scales": scales}
        return parts | {"g_idx": group_of}, values

    return make


def awq(random: torch.Generator) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    words = (1 << 31) - 1
    codes = integers(-words, words, (COLS, ROWS // 8), random)
    zeros = integers(-words, words, (COLS // GROUP, ROWS // 8), random)
    scales = scales_of((COLS // GROUP, ROWS), torch.float16, random)
    library = module_of("awq", "utils/packing_utils.py")
    values = library.dequantize_gemm(codes, zeros, scales.to(torch.float32), 4, GROUP).T
    return {"qweight": codes, "qzeros": zeros, "scales": scales}, values


_F8 = torch.float8_e4m3fn
CASES = {
    "ct-fp8-tensor": compressed(_F8, "tensor", torch.float32),
    "ct-fp8-channel": compressed(_F8, "channel", torch.bfloat16),
    "ct-fp8-block": compressed(_F8, "block", torch.float32, block_structure=[32, 32]),
    "ct-int8-channel": compressed(torch.int8, "channel", torch.float32),
    "ct-int8-zeros": compressed(torch.int8, "channel", torch.float32, zeros=True),
    "ct-pack4": compressed(torch.int32, "group", torch.bfloat16, 4, group_size=GROUP),
    "ct-pack4-zeros": compressed(torch.int32, "group", torch.float16, 4, True, group_size=GROUP),
    "ct-pack8-zeros": compressed(torch.int32, "channel", torch.float32, 8, True),
    "fp8-block": fp8_blocks,
    "gptq4": gptq(4, False),
    "gptq4-order": gptq(4, True),
    "gptq8": gptq(8, False),
    "awq": awq,
}

if __name__ == "__main__":
    main()
