"""Train a linear probe on harvested activations with NumPy alone.

Every story begins with a miller or a farmer and ends without naming the trade again. The harvest
keeps x of the last token of each; the probe learns to read the trade from it, in shuffled batches
that are a function of seed, epoch and step, so that training can be continued at any of them.
"""

import itertools
import tempfile

import numpy as np

import llamaprobe as lp

LAYER = 3
TRADES = ("miller", "farmer")
NAMES = ("Hopoa", "Torsa", "Lidu", "Banet", "Miro", "Sefa")
PLACES = ("behind the hills", "by the river", "near the forest", "in the village")
THINGS = ("heavy bell", "wooden clock", "silver key", "old lamp", "red coat")

stories = [
    f"Once upon a time there was a {trade} named {name} who lived {place}. {name} had a {thing}."
    for name, place, thing in itertools.product(NAMES, PLACES, THINGS)
    for trade in TRADES
]
is_farmer = np.arange(len(stories)) % 2  # of each document

with tempfile.TemporaryDirectory() as folder:
    model = lp.load("demo")
    h = lp.harvest(model, stories, folder, points=f"x:{LAYER}", positions="last")
    print(f"{h.n_rows} rows of {h.points[0]}, root {h.root}")

    document = h.rows.document[:]  # of each row
    is_test = document // 2 % 5 == 0  # a miller and a farmer of the same story stay together
    x = h["x", LAYER]
    mean, scale = x[~is_test].mean(axis=0), x[~is_test].std(axis=0) + 1e-6

    weights, bias = np.zeros(x.shape[1], np.float32), 0.0
    for epoch in range(20):
        for _, rows, values in h.batches("x", LAYER, size=32, shuffle=1, epoch=epoch):
            train = ~is_test[rows]
            inputs = (values[train] - mean) / scale
            guesses = 1 / (1 + np.exp(-(inputs @ weights + bias)))
            errors = guesses - is_farmer[document[rows[train]]]
            weights -= 0.05 * inputs.T @ errors / len(errors)
            bias -= 0.05 * errors.mean()

    guesses = ((x[is_test] - mean) / scale) @ weights + bias > 0
    accuracy = np.mean(guesses == is_farmer[document[is_test]])
    print(f"{is_test.sum()} stories that it was not trained on: {accuracy:.0%} right")
