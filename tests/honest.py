"""Random models and unaltered runs: every weight matrix has its own gain, from 1e-20 to 1e18, or
dead or enormous rows, or is all one number, and there may be ignored tensors. Any points and layers
of a run, alone or of a batch, are saved in any format, and may be read back and saved again.
`verify` must find no fault in any of them.

`python tests/honest.py 1000` tries 1000.
"""

import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import models
import numpy as np

import llamaprobe as lp
from llamaprobe.checks.verify import Check, verify_run

FORMATS = ("csv", "txt", "npy", "hex", "q4.12", "q1.31")


def make_model(rng: np.random.Generator, folder: Path) -> Path:
    n_heads = int(rng.choice([1, 2, 4]))
    config = models.make_config(
        hidden_size=int(rng.choice([8, 16, 24, 48, 64])),
        intermediate_size=int(rng.choice([8, 20, 64, 300])),
        num_hidden_layers=int(rng.integers(1, 4)),
        num_attention_heads=n_heads,
        num_key_value_heads=int(rng.choice([n for n in (1, 2, 4) if n_heads % n == 0])),
        head_dim=int(rng.choice([2, 4, 8, 16])),
        vocab_size=int(rng.integers(3, 60)),
        attention_bias=bool(rng.integers(2)),
        mlp_bias=bool(rng.integers(2)),
        tie_word_embeddings=bool(rng.integers(2)),
        rms_norm_eps=float(rng.choice([1e-5, 1e-6, 1e-12, 1e-30])),
        rope_theta=float(rng.choice([1.0, 100.0, 1e4, 5e5])),
    )
    dtype = str(rng.choice(["BF16", "F32"]))
    kinds = {"plain": 0.1, "gains": 0.4, "scores": 0.15, "rows": 0.25, "constant": 0.1}
    kind = rng.choice(list(kinds), p=list(kinds.values()))
    weights = models.make_weights(config, int(rng.integers(1 << 30)), dtype)
    with np.errstate(over="ignore", under="ignore"):
        for name, w in weights.items():
            if kind == "gains":
                w *= np.float32(10.0 ** rng.uniform(-20, 18))
            if kind == "scores" and ("q_proj" in name or "k_proj" in name):
                w *= np.float32(10.0 ** rng.uniform(0, 3))
            if kind == "rows" and w.ndim == 2 and rng.integers(2):
                gain = 10.0 ** rng.choice([-40, -30, -25, -20, 10, 20])
                w[rng.integers(len(w))] *= np.float32(gain)
                w[:, rng.integers(w.shape[1])] *= np.float32(10.0 ** rng.choice([-20, -5, 5, 10]))
            if kind == "constant":
                w[...] = np.float32(rng.choice([0.1, 1.0, -0.3, 0.0, 1e-40, 3e18]))
            np.clip(w, -3e38, 3e38, out=w)
            weights[name] = models.from_bits(models.to_bits(w, dtype), dtype).reshape(w.shape)
    if rng.integers(3) == 0:  # biases that the config does not name, and a foreign tensor
        named = {**config, "attention_bias": True, "mlp_bias": True}
        for name, shape in models.weight_shapes(named).items():
            weights.setdefault(name, np.ones(shape, np.float32))
        weights["score.weight"] = np.ones(3, np.float32)
    return models.write_checkpoint(folder, config, weights, dtype)


def open_model(rng: np.random.Generator, folder: Path) -> lp.Model:
    """All or one of its layers, ignoring unused tensors."""
    n_layers = 1 if rng.integers(4) == 0 else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return lp.load(folder, layers=n_layers, mmap=bool(rng.integers(2)))
        except lp.UnsupportedError:
            return lp.load(folder, layers=n_layers, ignore=["*.bias", "*"][rng.integers(2)])


def save_some(rng: np.random.Generator, model: lp.Model, out: Path) -> str:
    """Saves random values of a run; returns how."""
    names = [point.name for point in lp.Model.points()]
    n = int(rng.choice([1, 2, 5, len(names)]))
    points = [str(name) for name in rng.permutation(names)[:n]]
    n_layers = model.config.n_layers
    layers = rng.permutation(n_layers)[: rng.integers(1, n_layers + 1)].tolist()
    ids = rng.integers(0, model.config.vocab_size, rng.integers(1, 13))
    if rng.integers(4) == 0:
        ids[:] = ids[0]
    format = str(rng.choice(FORMATS))
    text = format in ("csv", "txt")
    digits = [None, 0, 1, 3, 8, 16][rng.integers(6)] if text else None
    how: dict[str, Any] = {"format": format, "digits": digits, "masks": bool(rng.integers(4))}
    how["header"] = format == "npy" or bool(rng.integers(3))
    how["hash_weights"] = bool(rng.integers(2))
    run = model.run(ids, points=points, layers=layers)
    if rng.integers(4) == 0:
        run = model.run([[1], ids, [0, 1]], points=points, layers=layers)[1]
    run.save(out, **how)
    case = f"{ids.tolist()} {points} {layers} {how}"
    if rng.integers(4) == 0:
        how |= {"format": "csv", "digits": [None, 2][rng.integers(2)], "header": True}
        lp.read_run(out).save(out, force=True, **how)
        case += f", then {how}"
    return case


def draw(seed: int, folder: Path) -> tuple[str, list[Check]]:
    """One random run, and what verify finds with and without the model."""
    rng = np.random.default_rng(seed)
    model = open_model(rng, make_model(rng, folder / "model"))
    how = save_some(rng, model, folder / "run")
    return how, [*verify_run(folder / "run", model), *verify_run(folder / "run")]


def accused(seeds: range) -> Iterator[str]:
    """Each draw in which verify finds a fault."""
    for seed in seeds:
        with tempfile.TemporaryDirectory() as folder:
            how, checks = draw(seed, Path(folder))
        for check in checks:
            if check.fault:
                yield f"{seed}: {check.what}: {check.fault} ({check.roundings}); {how}"


if __name__ == "__main__":
    first = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    found = list(accused(range(first, first + int(sys.argv[1]))))
    print("\n".join(found[:40]), f"\n{len(found)} accusations", sep="")
