"""Runs that go on from a cache: every bit is that of one run of all tokens."""

import gc
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import caches
import family_models
import models
import numpy as np
import pytest
import truth

import llamaprobe as lp
from llamaprobe import _core

IDS = [(7 * i * i + 3 * i) % 97 for i in range(340)]
MOST_PAST = 300
MOST_ROWS = 40
VARIANTS = [name for name, can_run in _core.kernels() if can_run]
FAMILIES = {case.name: case for case in family_models.family_cases()}
MODELS: dict[str, dict[str, Any]] = {
    "gqa": {},
    "mqa": {"num_attention_heads": 7, "num_key_value_heads": 1, "head_dim": 18},
    "mha": {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 32},
}


def open_runner(folder: Path, points: Any = "all", **config: Any) -> caches.Runner:
    numbers = models.make_config(**{"max_position_embeddings": 512} | config)
    models.write_checkpoint(folder, numbers, models.make_weights(numbers))
    return caches.Runner(lp.load(folder), points)


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> caches.Runner:
    return open_runner(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def whole(runner: caches.Runner) -> caches.Values:
    return runner.run([IDS])[0]


@pytest.fixture
def small(tmp_path: Path) -> caches.Runner:
    """Attention and what comes of it, of one layer."""
    points = ["scores", "pattern", "z", "logits"]
    return open_runner(tmp_path, points, num_hidden_layers=1, hidden_size=32)


# ---- the law ----


@pytest.mark.parametrize(
    ("name", "variant"),
    [
        pytest.param(name, variant, marks=pytest.mark.slow if variant.startswith("emu") else ())
        for name in MODELS
        for variant in VARIANTS
    ],
)
def test_rows_after_a_past_are_those_of_the_whole_run(
    name: str, variant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner, rng = open_runner(tmp_path, **MODELS[name]), Random(f"{name} {variant}")
    (whole,) = runner.run([IDS])
    monkeypatch.setenv("LLAMAPROBE_KERNELS", variant)
    cache = caches.check_chunks(runner, IDS, [rng.randint(9, MOST_ROWS) for _ in range(20)], whole)
    edges = {0, 1, 7, 8, 31, 32, 33, 63, 64, 65, 127, 128, 255, 256, MOST_PAST}
    for past in sorted(edges | set(rng.sample(range(MOST_PAST), 4)), reverse=True):
        for n in (1, rng.randint(2, MOST_ROWS)):
            cache.rewind(past)
            (got,) = runner.run([IDS[past : past + n]], [cache], n_threads=rng.randint(1, 3))
            caches.check_rows(got, whole, past)


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_past_with_every_number_of_rows(
    small: caches.Runner, variant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of variants in plain C every fifth past."""
    (whole,) = small.run([IDS])
    stride = 5 if variant in ("generic", "emu16", "emu16_zen4") else 1
    monkeypatch.setenv("LLAMAPROBE_KERNELS", variant)
    cache = small.cache(MOST_PAST + MOST_ROWS)
    small.run([IDS[:MOST_PAST]], [cache])
    for past in range(MOST_PAST, -1, -stride):
        for n in range(1, MOST_ROWS + 1):
            cache.rewind(past)
            (got,) = small.run([IDS[past : past + n]], [cache], n_threads=1)
            caches.check_rows(got, whole, past)


@pytest.mark.parametrize("points", ["all", ["logits"], ["pattern", "x_out"], ["k_rope", "v"]])
def test_sequences_with_different_pasts_run_together(points: Any, tmp_path: Path) -> None:
    runner, rng = open_runner(tmp_path, points), Random(1)
    prompts = [[(i * i + s) % 97 for i in range(40 + 23 * s)] for s in range(5)]
    wholes = runner.run(prompts)
    held = [None if s == 3 else runner.cache(8 * s) for s in range(5)]
    pasts = [0] * 5
    for _ in range(12):
        parts = []
        for s, ids in enumerate(prompts):
            if pasts[s] >= len(ids) - 1:
                pasts[s] = rng.randrange(len(ids))
                if (cache := held[s]) is not None:
                    cache.rewind(pasts[s])
            first = 0 if held[s] is None else pasts[s]
            pasts[s] = min(len(ids), first + rng.choice([1, 1, 2, 9, 33]))
            parts.append(ids[first : pasts[s]])
        befores = [cache.n_tokens if cache else 0 for cache in held]
        for got, all_rows, past in zip(
            runner.run(parts, held, n_threads=rng.randint(1, 3)), wholes, befores, strict=True
        ):
            caches.check_rows(got, all_rows, past)


@pytest.mark.skipif(not truth.available(), reason="torch or transformers is missing")
@pytest.mark.parametrize("name", FAMILIES)
def test_models_of_every_family_go_on_from_a_cache(name: str, tmp_path: Path) -> None:
    case = FAMILIES[name]
    runner = caches.Runner(lp.load(case.make(tmp_path)))
    ids = IDS[: case.n_tokens]
    (whole,) = runner.run([ids])
    for sizes in ([9, 1, 1, 3, 1, 4], [1, case.n_tokens - 2]):
        caches.check_chunks(runner, ids, sizes, whole, rope_length=len(ids))


def test_the_demo_goes_on_from_a_cache(demo_folder: Path) -> None:
    runner = caches.Runner(lp.load(demo_folder))
    ids = lp.load(demo_folder).run("So the heavy bell came back to", points="x").token_ids.tolist()
    (whole,) = runner.run([ids])
    for past in range(len(ids)):
        caches.check_chunks(runner, ids, [past, 1] if past else [1], whole)


# ---- the head of last rows ----


@pytest.mark.parametrize("points", [["logits"], "all", ["x", "final_rms", "logits"], ["attn_out"]])
@pytest.mark.parametrize("n_layers", [1, 3])
def test_last_rows_are_those_of_all_rows(points: Any, n_layers: int, tmp_path: Path) -> None:
    runner = open_runner(tmp_path, points, num_hidden_layers=n_layers)
    prompts = [IDS[:5], IDS[5:6], IDS[6:40], IDS[40:75]]
    for batch in (prompts, prompts[:1], prompts[1:2], [p[:1] for p in prompts]):
        held = [runner.cache() for _ in batch]
        for got, all_rows in zip(
            runner.run(batch, held, last_rows=True), runner.run(batch), strict=True
        ):
            for name, bits in got.items():
                per_layer = name not in ("final_rms", "final_unit", "final_norm", "logits")
                expected = all_rows[name] if per_layer else all_rows[name][:, -1:]
                assert np.array_equal(bits, expected), name


def test_last_rows_need_no_more_memory_than_they_have(runner: caches.Runner) -> None:
    (logits,) = (p for p in lp.load(runner.folder).points() if p.name == "logits")
    ids, n = np.zeros(300, np.int32), runner.config.vocab_size
    for last_rows in (False, True):
        steps, _, _ = runner.core.plan(
            ids, [0, 100, 300], [(logits.number, (0,))], n_threads=1, last_rows=last_rows
        )
        rows = {name: size for *_, values, _ in steps for name, _, size in values}
        assert rows["logits"] == 4 * n * (2 if last_rows else 300)
        assert rows["hidden"] == 4 * runner.config.d_ff * (2 if last_rows else 300)


# ---- the object ----


def test_a_cache_grows_and_says_how_large_it_is(runner: caches.Runner) -> None:
    c, cache = runner.config, runner.cache(10)
    a_token = 2 * 4 * c.n_layers * c.n_kv_heads * c.head_dim
    assert (cache.n_tokens, cache.capacity, cache.n_bytes) == (0, 16, 16 * a_token)
    assert cache.model is runner.core
    runner.run([IDS[:16]], [cache])
    assert (cache.n_tokens, cache.capacity) == (16, 16)
    runner.run([IDS[:1]], [cache])
    assert (cache.n_tokens, cache.capacity, cache.n_bytes) == (17, 24, 24 * a_token)
    runner.run([IDS[:100]], [cache])
    assert (cache.n_tokens, cache.capacity) == (117, 120)
    runner.cache(512)
    with pytest.raises(
        lp.ArgumentError, match="a cache of 513 tokens, the model takes at most 512"
    ):
        runner.cache(513)
    with pytest.raises(lp.ArgumentError, match="a cache of -1 tokens"):
        runner.cache(-1)
    with pytest.raises(lp.ArgumentError, match="117 tokens, it cannot go back to 118"):
        cache.rewind(118)
    for wrong in (-1, 1.5, 1 << 70):
        with pytest.raises((lp.ArgumentError, TypeError)):
            cache.rewind(wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        _core.Cache(None)  # type: ignore[arg-type]


def test_a_copy_goes_its_own_way(runner: caches.Runner, whole: caches.Values) -> None:
    cache = caches.check_chunks(runner, IDS[:70], [33], whole)
    copy = cache.copy(90, n_threads=2)
    assert (copy.n_tokens, copy.capacity, copy.model) == (70, 96, runner.core)
    cache.rewind(3)
    runner.run([IDS[200:250]], [cache])
    (got,) = runner.run([IDS[70:120]], [copy])
    caches.check_rows(got, whole, 70)
    assert runner.cache().copy().n_tokens == 0


def test_a_cache_keeps_its_model_and_frees_its_memory(tmp_path: Path) -> None:
    runner = open_runner(tmp_path)
    cache, core = runner.cache(500), weakref.ref(runner)
    assert sys.getrefcount(runner.core) >= 3
    del runner
    gc.collect()
    assert core() is None and cache.model is not None
    cache.copy()


# ---- failures ----


def test_what_cannot_go_on_is_refused_and_changes_nothing(
    runner: caches.Runner, tmp_path: Path
) -> None:
    cache, other = runner.cache(), open_runner(tmp_path)
    runner.run([IDS[:20]], [cache])
    for message, call in {
        "the cache of sequence 0 belongs to another model": lambda: other.run([[1]], [cache]),
        "2 caches for 1 sequences": lambda: runner.run([[1]], [cache, None]),
        "sequence 1 is in use: by another thread, or twice in this run": lambda: runner.run(
            [[1], [2]], [cache, cache]
        ),
        "item 1 of caches is neither a Cache nor None": lambda: runner.core.run(
            np.zeros(2, np.int32), [0, 1, 2], [], n_threads=1, caches=[cache, 5]
        ),
        "sequence 0 has 513 tokens, 20 of them in its cache; the model takes at most 512": lambda: (
            runner.run([[1] * 493], [cache])
        ),
        "token id 97 at position 0": lambda: runner.run([[97]], [cache]),
    }.items():
        with pytest.raises(lp.ArgumentError, match=message):
            call()
        assert cache.n_tokens == 20, message
    runner.run([[1] * 492], [cache])  # and it is not in use any more


def test_a_longrope_model_does_not_cross_to_its_other_table(tmp_path: Path) -> None:
    if not truth.available():
        pytest.skip("torch or transformers is missing")
    runner = caches.Runner(lp.load(FAMILIES["phi3-long"].make(tmp_path)))
    cache = runner.cache()
    runner.run([IDS[:16]], [cache])
    with pytest.raises(
        lp.ArgumentError, match=r"has 17 tokens, .* 16 in its cache .* the short RoPE fr"
    ):
        runner.run([IDS[16:17]], [cache])
    runner.run([IDS[16:17]], [cache], rope_length=16)
    cache.rewind(0)
    (whole,) = runner.run([IDS[:20]])
    caches.check_rows(runner.run([IDS[:17]], [cache])[0], whole, 0)
    caches.check_rows(runner.run([IDS[17:20]], [cache])[0], whole, 17)


def test_a_run_that_is_stopped_leaves_the_cache_as_it_was(
    runner: caches.Runner, whole: caches.Values
) -> None:
    cache, n_stopped = runner.cache(), 0
    for n in range(0, 60, 3):
        past, calls = cache.n_tokens, iter(range(10**6))

        def stop(done: int, total: int, calls: Iterator[int] = calls, n: int = n) -> None:
            if (done, total) != (0, 0) and next(calls) >= n % 2:
                raise KeyboardInterrupt

        try:
            runner.run([IDS[past : past + 9]], [cache], progress=stop)
        except KeyboardInterrupt:
            n_stopped += 1
            assert cache.n_tokens == past
        past = cache.n_tokens
        (got,) = runner.run([IDS[past : past + 2]], [cache])
        caches.check_rows(got, whole, past)
    assert n_stopped >= 10


def test_memory_that_is_not_there_is_refused_before_it_is_taken(tmp_path: Path) -> None:
    runner = open_runner(
        tmp_path,
        ["logits"],
        head_dim=256,
        num_attention_heads=64,
        num_key_value_heads=64,
        hidden_size=8,
        max_position_embeddings=1 << 24,
    )
    with pytest.raises(lp.OutOfMemory, match=r"a cache of 16000000 tokens needs \d+ bytes and \d+"):
        runner.cache(16_000_000)
    cache = runner.cache()
    with pytest.raises(lp.OutOfMemory, match=r"caches: \d{13} bytes"):
        runner.run([[1] * 3_000_000], [cache], last_rows=True)
    assert (cache.n_tokens, cache.capacity) == (0, 0)


# ---- threads ----


def test_a_cache_in_use_refuses_a_second_thread(runner: caches.Runner) -> None:
    cache, refused = runner.cache(), []

    def use(call: Callable[[], object]) -> None:
        with pytest.raises(lp.ArgumentError, match="in use") as e:
            call()
        refused.append(e)

    def meanwhile(done: int, total: int) -> None:
        if refused:
            return
        calls = [lambda: runner.run([[1]], [cache]), lambda: cache.rewind(0), cache.copy]
        threads = [threading.Thread(target=use, args=(call,)) for call in calls]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert (cache.n_tokens, cache.model) == (0, runner.core)

    runner.run([IDS], [cache], progress=meanwhile)
    assert len(refused) == 3 and cache.n_tokens == len(IDS)


def test_caches_of_several_threads_do_not_disturb_each_other(
    runner: caches.Runner, whole: caches.Values
) -> None:
    failures: list[BaseException] = []

    def work(seed: int) -> None:
        rng = Random(seed)
        try:
            for _ in range(3):
                sizes = [rng.randint(1, MOST_ROWS) for _ in range(4)]
                caches.check_chunks(runner, IDS[: sum(sizes)], sizes, whole)
        except BaseException as e:
            failures.append(e)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not failures
