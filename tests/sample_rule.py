"""lp-sample-1 in NumPy, from docs/generation.md alone: what a Sample draws."""

import numpy as np
from numpy.typing import NDArray


def word(seed: int, number: int, position: int) -> int:
    """The random word of a position, by NumPy's Philox, which counts up before it draws."""
    counter = (position - 1) % 2**256
    return int(np.random.Philox(key=seed | number << 64, counter=counter).random_raw())


def fma(a: NDArray, b: NDArray, c: NDArray) -> NDArray:
    """a * b + c of float32, rounded once: the float64 sum is rounded to odd, which survives the
    rounding to float32."""
    product = a.astype(np.float64) * b.astype(np.float64)  # exact
    c = c.astype(np.float64)
    total = product + c
    part = total - product
    lost = (product - (total - part)) + (c - part)
    odd = (total.view(np.int64) & 1).astype(bool)
    total = np.where(
        (lost != 0) & ~odd, np.nextafter(total, np.where(lost > 0, np.inf, -np.inf)), total
    )
    return total.astype(np.float32)


def exp(x: NDArray) -> NDArray:
    """Rule 5 of docs/arithmetic.md."""
    f = np.float32
    hexed = lambda text: np.full_like(x, f(float.fromhex(text)))  # noqa: E731
    x = np.clip(x, f(-104), f(89))
    bias = hexed("0x1.8p+23")
    n = fma(x, hexed("0x1.715476p+0"), bias) - bias
    r = fma(n, -hexed("0x1.62e4p-1"), x)
    r = fma(n, -hexed("0x1.7f7d1cp-20"), r)
    p = hexed("0x1.6a528p-10")
    for c in ("0x1.123b1ap-7", "0x1.5558aep-5", "0x1.55549p-3", "0x1.fffffcp-2", "1", "1"):
        p = fma(p, r, hexed(c) if "x" in c else np.full_like(x, f(1)))
    n = n.astype(np.int32)
    half = n >> 1
    return p * np.ldexp(f(1), half).astype(f) * np.ldexp(f(1), n - half).astype(f)


def draw(
    logits: NDArray[np.float32],
    position: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
    number: int = 0,
) -> int:
    rank = np.argsort(-logits, kind="stable")
    with np.errstate(over="ignore", under="ignore"):
        w = exp((logits - logits.max()) / np.float32(temperature)).astype(np.float64)
    kept = rank[:top_k]
    if top_p is not None:
        c = np.add.accumulate(w[kept])
        kept = kept[: 1 + np.flatnonzero(c >= top_p * c[-1])[0]]
    kept = np.sort(kept)
    c = np.add.accumulate(w[kept])
    u = (word(seed, number, position) >> 11) * 2.0**-53
    above = np.flatnonzero(c > u * c[-1])
    return int(kept[above[0]] if above.size else kept[w[kept] > 0][-1])


def logprob(logits: NDArray[np.float32], id: int) -> float:
    shifted = logits.astype(np.float64) - logits.max()
    return float(shifted[id] - np.log(np.exp(shifted).sum()))
