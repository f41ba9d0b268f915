"""Makes quantised weights of float32 matrices: the nearest codes for plain scales, not the ones that a library would
choose. `blocks` gives the bytes of a GGUF type, `safetensors_parts` the stored tensors of the other kinds."""

import numpy as np

from llamaprobe.checkpoint import layouts

LARGEST = {
    "q2_k": 15,
    "q4_k": 63,
    "q5_k": 63,
    "q3_k": 31,
    "q6_k": 127,
    "iq4_xs": 31,
}  # scale of a group
AWQ_COLUMNS = (0, 2, 4, 6, 1, 3, 5, 7)  # the column of each nibble of a word


def put(codes, width, run):
    """Bit fields [..., n] -> bytes, the inverse of `layouts._Plane`."""
    per = 8 // width
    parts = codes.reshape(*codes.shape[:-1], -1, per, run).astype(np.uint8)
    shifted = parts << (np.arange(per, dtype=np.uint8) * width)[:, None]
    return np.bitwise_or.reduce(shifted, axis=-2).reshape(*codes.shape[:-1], -1)


def six_bits(kind, scales, mins):
    """The integers of the groups of a block as its `scales` field has them."""
    if kind == "q2_k":
        return scales | mins << 4
    if kind in ("q4_k", "q5_k"):
        a, b = scales[..., :4] | scales[..., 4:] >> 4 << 6, mins[..., :4] | mins[..., 4:] >> 4 << 6
        return np.concatenate([a, b, scales[..., 4:] & 15 | (mins[..., 4:] & 15) << 4], axis=-1)
    return np.concatenate([put(scales & 15, 4, 8), put(scales >> 4, 2, 4)], axis=-1)


def blocks(kind, values):
    """[out, in] -> uint8 [out, bytes of a row]. `in` is a multiple of the block."""
    values = np.asarray(values, np.float32)
    if kind in layouts.FLOATS:
        words = {"f32": "<f4", "f16": "<f2"}
        if kind in words:
            return np.ascontiguousarray(values.astype(words[kind])).view(np.uint8)
        return np.ascontiguousarray(layouts.to_bf16(values).view("<u2")[:, 1::2]).view(np.uint8)
    block = layouts.BLOCKS[kind]
    x = values.reshape(len(values), -1, block.size // block.group, block.group)
    bits = sum(plane.width for plane in block.planes)
    names = block.dtype.names
    has_offset = "m" in names or "dmin" in names
    levels = np.arange(1 << bits) if block.levels is None else np.array(block.levels)
    levels = levels - block.zero if kind != "q8_0" else np.arange(-127, 128)
    low = np.minimum(x.min(-1), 0) if has_offset else 0 * x[..., 0]
    top = (x.max(-1) - low) / levels.max() if has_offset else abs(x).max(-1) / abs(levels).max()
    out = np.zeros(x.shape[:2], block.dtype)
    if kind in LARGEST:
        most = LARGEST[kind]
        out["d"] = top.max(-1) / most
        d = out["d"].astype(np.float32)[..., None]
        steps = np.clip(np.rint(top / np.where(d > 0, d, 1)), 1, most).astype(np.uint8)
        scale, mins, offset = d * steps, None, np.float32(0)
        if has_offset:
            out["dmin"] = -low.min(-1) / most
            dmin = out["dmin"].astype(np.float32)[..., None]
            mins = np.clip(np.rint(-low / np.where(dmin > 0, dmin, 1)), 0, most).astype(np.uint8)
            offset = (-dmin * mins)[..., None]
        if kind == "q6_k":
            out["scales"] = steps
        elif kind == "iq4_xs":
            high = put(steps + 32 >> 4, 2, 1)
            out["scales"] = put(steps + 32 & 15, 4, 1)
            out["scales_high"] = (
                high[..., 0].astype(np.uint16) | high[..., 1].astype(np.uint16) << 8
            )
        else:
            out["scales"] = six_bits(kind, steps + 32 if kind == "q3_k" else steps, mins)
    else:
        out["d"] = top[..., 0]
        scale, offset = out["d"].astype(np.float32)[..., None], np.float32(0)
        if has_offset:
            out["m"] = low[..., 0]
            offset = out["m"].astype(np.float32)[..., None, None]
    scale = np.where(scale > 0, scale, 1)[..., None]
    wanted = (x - offset) / scale
    if kind == "q8_0":
        out["low"] = np.clip(np.rint(wanted), -127, 127)[..., 0, :]
    else:
        ends = (levels[1:] + levels[:-1]) / 2
        codes = np.searchsorted(ends, wanted).astype(np.uint8).reshape(*x.shape[:2], -1)
        for field, width, run, shift in block.planes:
            out[field] = put(codes >> shift & (1 << width) - 1, width, run)
    return out.view(np.uint8).reshape(len(values), -1)


def words_of(fields, bits):
    """Bit fields [..., n] -> int32 words [..., ceil(n bits / 32)], the lowest first."""
    per = 32 // bits
    padded = np.pad(fields, [(0, 0)] * (fields.ndim - 1) + [(0, -fields.shape[-1] % per)])
    parts = padded.reshape(*fields.shape[:-1], -1, per).astype(np.uint32)
    shifts = np.arange(0, 32, bits, dtype=np.uint32)
    return np.bitwise_or.reduce(parts << shifts, axis=-1).view(np.int32)


def awq_words(fields):
    """Columns [..., n] of four bits -> int32 words of eight in AWQ's order."""
    return words_of(
        fields.reshape(*fields.shape[:-1], -1, 8)[..., AWQ_COLUMNS].reshape(fields.shape), 4
    )


def codes_of(values, bits, group, symmetric=True):
    """(codes, scales, zeros): unsigned codes [out, in], float16 scales and zeros [out, groups]."""
    n_rows, n_cols = values.shape
    x = np.pad(values, [(0, 0), (0, -n_cols % group)]).reshape(n_rows, -1, group)
    most = (1 << bits) - 1
    if symmetric:
        scales = (abs(x).max(-1) / (most // 2)).astype(np.float16)
        zeros = np.full(scales.shape, 1 << (bits - 1), np.uint8)
    else:
        low, high = np.minimum(x.min(-1), 0), np.maximum(x.max(-1), 0)
        scales = ((high - low) / most).astype(np.float16)
        zeros = np.clip(np.rint(-low / scales.astype(np.float32)), 0, most).astype(np.uint8)
    wanted = np.rint(x / scales.astype(np.float32)[..., None]) + zeros[..., None]
    codes = np.clip(wanted, 0, most).astype(np.uint8).reshape(n_rows, -1)[:, :n_cols]
    return codes, scales, zeros


def gptq(values, bits=4, group=32, symmetric=True, v1=True):
    """The tensors of a GPTQ matrix: qweight, qzeros, scales, g_idx."""
    codes, scales, zeros = codes_of(values, bits, group, symmetric)
    stored = (zeros - v1) & ((1 << bits) - 1)
    return {
        "qweight": words_of(codes, bits).T.copy(),
        "qzeros": words_of(stored.T, bits),
        "scales": scales.T.copy(),
        "g_idx": (np.arange(values.shape[1]) // group).astype(np.int32),
    }


def awq(values, group=32, symmetric=False):
    """The tensors of an AWQ matrix: qweight, qzeros, scales."""
    codes, scales, zeros = codes_of(values, 4, group, symmetric)
    return {"qweight": awq_words(codes.T), "qzeros": awq_words(zeros.T), "scales": scales.T.copy()}


def packed_int(values, bits=4, group=32, symmetric=True):
    """The tensors of compressed-tensors pack-quantized: weight_packed, weight_scale, weight_zero_point."""
    codes, scales, zeros = codes_of(values, bits, group, symmetric)
    parts = {"weight_packed": words_of(codes, bits), "weight_scale": scales}
    return parts if symmetric else parts | {"weight_zero_point": words_of(zeros.T, bits).T.copy()}
