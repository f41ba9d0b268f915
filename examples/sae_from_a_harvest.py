"""Train a tiny sparse autoencoder on harvested activations with NumPy alone.

The harvest keeps x of every token but the first of each text, whose norm is far larger than that of
all others. Each row becomes a sum of at most K of N_LATENTS learned directions (a top-K
autoencoder). Batches are a function of seed, epoch and step: a training that was stopped continues
with `start`.
"""

import itertools
import tempfile

import numpy as np

import llamaprobe as lp

LAYER, N_LATENTS, K = 2, 256, 8
RATE, DECAY_1, DECAY_2 = 2e-3, 0.9, 0.999  # of Adam

TRADES = ("miller", "farmer", "baker", "tailor")
NAMES = ("Hopoa", "Torsa", "Lidu", "Banet")
PLACES = ("behind the hills", "by the river", "near the forest", "in the village")
THINGS = ("heavy bell", "wooden clock", "silver key", "old lamp")

stories = [
    f"Once upon a time there was a {trade} named {name} who lived {place}. {name} had a {thing}."
    for trade, name, place, thing in itertools.product(TRADES, NAMES, PLACES, THINGS)
]


def encode(rows: np.ndarray, w: dict[str, np.ndarray]) -> np.ndarray:
    """The K largest latents of each row, [n, N_LATENTS], none below 0; all others are 0."""
    latents = np.maximum((rows - w["center"]) @ w["encoder"] + w["bias"], 0)
    least = np.partition(latents, -K, axis=1)[:, -K, None]
    return np.where(latents >= least, latents, 0)


with tempfile.TemporaryDirectory() as folder:
    model = lp.load("demo")
    h = lp.harvest(model, stories, folder, points=f"x:{LAYER}", positions="skip:1")
    print(f"{h.n_rows} rows of {h.points[0]}, root {h.root}")

    x = h["x", LAYER]
    center = x[:].mean(axis=0)
    scale = np.float32(np.sqrt(((x[:] - center) ** 2).sum(axis=1).mean()))
    decoder = np.random.default_rng(1).standard_normal((N_LATENTS, x.shape[1]), np.float32)
    decoder /= np.linalg.norm(decoder, axis=1, keepdims=True)
    w = {
        "encoder": decoder.T.copy(),
        "bias": np.zeros(N_LATENTS, np.float32),
        "decoder": decoder,
        "center": center / scale,
    }
    first = {name: np.zeros_like(value) for name, value in w.items()}
    second = {name: np.zeros_like(value) for name, value in w.items()}

    n_steps = 0
    for epoch in range(6):
        loss = 0.0
        for _, rows, values in h.batches("x", LAYER, size=256, shuffle=1, epoch=epoch):
            inputs = values / scale
            latents = encode(inputs, w)
            errors = latents @ w["decoder"] + w["center"] - inputs
            loss += float((errors**2).sum())

            through = (errors @ w["decoder"].T) * (latents > 0)
            slopes = {
                "encoder": (inputs - w["center"]).T @ through,
                "bias": through.sum(axis=0),
                "decoder": latents.T @ errors,
                "center": errors.sum(axis=0) - through.sum(axis=0) @ w["encoder"].T,
            }
            n_steps += 1
            for name, slope in slopes.items():
                slope = slope / len(rows)
                first[name] = DECAY_1 * first[name] + (1 - DECAY_1) * slope
                second[name] = DECAY_2 * second[name] + (1 - DECAY_2) * slope**2
                mean = first[name] / (1 - DECAY_1**n_steps)
                w[name] -= RATE * mean / (np.sqrt(second[name] / (1 - DECAY_2**n_steps)) + 1e-8)
            w["decoder"] /= np.linalg.norm(w["decoder"], axis=1, keepdims=True)
        print(f"epoch {epoch}: {loss / h.n_rows:.1%} of the variance is not explained")

    latents = encode(x[:] / scale, w)
    tokens = h.rows.token_id[:]
    for number in np.argsort((latents > 0).sum(axis=0))[-5:]:  # the most frequent
        strongest = tokens[np.argsort(latents[:, number])[::-1][:200]]
        words = [model.tokenizer.decode([int(token)]) for token in dict.fromkeys(strongest)]
        print(f"latent {number} fires at {words[:6]}")
