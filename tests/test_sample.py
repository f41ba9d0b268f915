"""lp.Sample: the rule lp-sample-1 against the same in NumPy, and what it refuses."""

import pickle
import subprocess
import sys
import threading
from typing import Any

import numpy as np
import pytest
import sample_rule

import llamaprobe as lp
from llamaprobe.generation.sample import draw, samples_of


def rows(n: int, vocab: int) -> list[np.ndarray]:
    """Rows of logits: plain, with ties, with -inf, far apart, of huge and of tiny size."""
    rng = np.random.default_rng(vocab)
    found = []
    for i in range(n):
        row = rng.standard_normal(vocab).astype(np.float32) * np.float32(
            [1, 5, 0.01, 40, 1e37][i % 5]
        )
        if i % 2:
            row = np.round(row * 4) / np.float32(4)
        if i % 3 == 1:
            row[rng.random(vocab) < 0.4] = -np.inf
            row[0] = 0
        if i % 7 == 3:
            row[:] = -0.0
            row[::2] = 0.0
        found.append(row.astype(np.float32))
    return found


SETTINGS: list[dict[str, Any]] = [
    {},
    {"temperature": 0.3},
    {"temperature": 1e-40},
    {"temperature": 50.0, "top_k": 10_000},
    {"top_k": 1},
    {"top_k": 5, "seed": 2**64 - 1},
    {"top_p": 0.9, "number": 2**63},
    {"top_p": 1.0},
    {"top_p": 1e-300},
    {"temperature": 1.7, "top_k": 20, "top_p": 0.5, "seed": 3, "number": 4},
]


@pytest.mark.parametrize("vocab", [1, 2, 97, 3000])
def test_draws_are_those_of_the_rule(vocab: int):
    for i, row in enumerate(rows(35, vocab)):
        for setting in SETTINGS:
            sample = lp.Sample(**setting)
            assert sample.choose(row, i) == sample_rule.draw(row, i, **setting), (i, setting)


def test_the_random_word_is_philox():
    assert sample_rule.word(0, 0, 0) == 0x16554D9ECA36314C
    uniform = np.zeros(1 << 20, np.float32)  # then the id says what u was
    for seed, number, position in [(0, 0, 0), (1, 0, 5), (0, 1, 2**40), (2**64 - 1, 2**64 - 1, 9)]:
        u = (sample_rule.word(seed, number, position) >> 11) * 2.0**-53
        chosen = lp.Sample(seed=seed, number=number).choose(uniform, position)
        assert chosen == int(u * (1 << 20))
    assert int(0.08723912 * (1 << 20)) == lp.Sample().choose(uniform, 0)


def test_draws_have_the_frequencies_of_softmax():
    row = np.log(np.array([0.5, 0.25, 0.125, 0.125], np.float32))
    counts = np.bincount([lp.Sample(seed=8).choose(row, p) for p in range(8000)], minlength=4)
    assert np.abs(counts / 8000 - np.exp(row)).max() < 0.02


def test_greedy_takes_the_first_of_the_largest():
    for i, row in enumerate(rows(35, 97)):
        id, logprob = draw(None, row, i)
        assert id == int(np.argmax(row))
        assert abs(logprob - sample_rule.logprob(row, id)) < 1e-9


def test_logprob_is_of_the_logits_before_temperature_and_cuts():
    for i, row in enumerate(rows(35, 500)):
        id, logprob = draw(lp.Sample(0.2, top_k=3, top_p=0.5), row, i)
        assert abs(logprob - sample_rule.logprob(row, id)) < 1e-9 and logprob <= 0


def test_temperature_is_a_float32_and_top_p_a_float64():
    row = rows(1, 3000)[0]
    for p in range(50):
        assert lp.Sample(0.1).choose(row, p) == lp.Sample(float(np.float32(0.1))).choose(row, p)
    tie = np.zeros(4, np.float32)
    assert {lp.Sample(top_p=0.5).choose(tie, p) for p in range(40)} == {0, 1}
    assert {lp.Sample(top_p=np.nextafter(0.5, 1)).choose(tie, p) for p in range(60)} == {0, 1, 2}


def test_a_draw_does_not_depend_on_the_mode_of_the_thread_or_on_other_threads():
    row, found = rows(1, 3000)[0], {}

    def work(number: int) -> None:
        found[number] = [lp.Sample(number=number).choose(row, p) for p in range(100)]

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, drawn in found.items():
        assert drawn == [sample_rule.draw(row, p, number=number) for p in range(100)]


@pytest.mark.parametrize(
    ("values", "fact"),
    [([0, np.nan, 1], "a NaN, at id 1"), ([0, 1, np.inf], r"\+inf, at id 2")],
)
def test_refuses_logits_without_a_meaning(values: list[float], fact: str):
    for sample in (None, lp.Sample()):
        with pytest.raises(lp.ArgumentError, match=f"choose the token at position 12 have {fact}"):
            draw(sample, np.array(values, np.float32), 12)
        with pytest.raises(lp.ArgumentError, match="position 12 are all -inf"):
            draw(sample, np.full(3, -np.inf, np.float32), 12)


@pytest.mark.parametrize(
    ("how", "fact"),
    [
        ({"temperature": 0}, "above 0; sample=None is greedy"),
        ({"temperature": 1e-60}, "sample=None is greedy"),
        ({"temperature": -1}, "finite float32 above 0"),
        ({"temperature": 1e39}, "finite float32 above 0"),
        ({"temperature": float("nan")}, "finite float32 above 0"),
        ({"temperature": True}, "temperature is True; give a finite float32 above 0"),
        ({"temperature": "0.5"}, "temperature is '0.5'; give"),
        ({"top_k": 0}, "integer of at least 1, or None"),
        ({"top_k": 2.0}, "top_k is 2.0"),
        ({"top_p": 0}, r"in \(0, 1\], or None"),
        ({"top_p": 1.01}, r"in \(0, 1\], or None"),
        ({"top_p": float("nan")}, r"in \(0, 1\], or None"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**64}, "to 18446744073709551615"),
        ({"number": True}, "number is True"),
    ],
)
def test_refuses_numbers_out_of_range(how: dict[str, Any], fact: str):
    with pytest.raises(lp.ArgumentError, match=fact):
        lp.Sample(**how)


def test_a_sample_is_plain_data():
    sample = lp.Sample(np.float32(0.5), top_k=np.int64(4), seed=np.uint64(7))
    assert sample == lp.Sample(0.5, top_k=4, seed=7) and hash(sample) == hash(
        lp.Sample(0.5, 4, seed=7)
    )
    assert pickle.loads(pickle.dumps(sample)) == sample
    assert repr(sample) == "Sample(temperature=0.5, top_k=4, top_p=None, seed=7, number=0)"


def test_one_sample_or_one_for_each_prompt():
    a, b = lp.Sample(), lp.Sample(seed=1)
    assert samples_of(a, 2, True) == [a, a] and samples_of(None, 1, False) == [None]
    assert samples_of([a, None], 2, True) == [a, None] and samples_of((b,), 1, True) == [b]
    for wrong, n, is_batch in [([a], 2, True), ([a], 1, False), ("x", 1, False), ([1], 1, True)]:
        with pytest.raises(lp.ArgumentError, match="^sample (is|has)"):
            samples_of(wrong, n, is_batch)


def test_denormal_numbers_where_denormals_are_flushed():
    """torch sets the mode of the thread; the core draws, and reserves scratch, as without it."""
    pytest.importorskip("torch")
    code = """
import sys
import numpy as np
from llamaprobe import _core
if sys.argv[1] == "flushed":
    import torch
    assert torch.set_flush_denormal(True)
rest = {"seed": 1, "number": 0}
print(_core.sample(np.zeros(50_000, np.float32), 3, 1e-40, 5, 0.0, **rest))
logits = np.array([0, 71_362, 142_724, 0], np.uint32).view(np.float32)
print(_core.sample(logits, 3, 0.0, 0, 0.0, **rest))
"""
    found = [
        subprocess.run([sys.executable, "-c", code, mode], capture_output=True, text=True, timeout=300)
        for mode in ("plain", "flushed")
    ]
    assert [one.returncode for one in found] == [0, 0], found[1].stderr
    assert found[0].stdout == found[1].stdout and found[0].stdout.splitlines()[1].startswith("(2, ")
