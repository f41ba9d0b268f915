"""llamaprobe sweep: its output, files, usage, exit codes."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import llamaprobe as lp

Command = Callable[..., tuple[int, str, str]]
CLEAN, CORRUPTED = "Hopoa had a heavy bell. The", "Hopoa had a wooden bell. The"
PROMPTS = ("sweep", "demo", "--clean", CLEAN, "--corrupted", CORRUPTED)


@pytest.fixture(scope="module")
def demo() -> lp.Model:
    return lp.load("demo")


def test_the_cells_that_move_the_metric_most(command: Command, demo: lp.Model):
    code, out, err = command(*PROMPTS, "--answer", " heavy", "--wrong", " wooden")
    s = demo.patch_map(CLEAN, CORRUPTED, metric=lp.logit_diff(" heavy", " wooden"))
    first, head, *lines = out.splitlines()
    assert code == 0 and first == f"corrupted {s.base:.6g}, clean {s.clean:.6g}"
    assert head.split() == ["layer", "position", "metric", "change", "token"] and len(lines) == 10
    changes = np.abs(s.values - s.base)
    layer, position = np.unravel_index(changes.argmax(), changes.shape)
    value = s.values[layer, position]
    assert lines[0].split()[:4] == (f"{layer} {position} {value:.6g} {value - s.base:+.6g}".split())
    assert "' The'" in lines[0]
    assert err == f"llamaprobe: 44 cells, {s.n_skipped} of them like the corrupted prompt\n"


def test_metrics_and_json(command: Command, demo: lp.Model):
    clean = demo.run(CLEAN, points="logits")
    for words, metric in (
        (("--answer", " heavy", "--wrong", " wooden"), lp.logit_diff(" heavy", " wooden")),
        (("--answer", " heavy", "--position", 6), lp.logprob(" heavy", 6)),
        ((), lp.kl(clean)),
        (("--metric", "kl", "--position", "-3"), lp.kl(clean, -3)),
    ):
        how = ("--patch", "z", "--heads", "--layers", "1-3", "--positions", "4,-1", "--quiet")
        code, out, err = command(*PROMPTS, *words, *how, "--json")
        s = demo.patch_map(
            CLEAN, CORRUPTED, metric=metric, point="z", heads=True, layers=[1, 2, 3],
            positions=[4, -1],
        )  # fmt: skip
        found = json.loads(out)
        assert (code, err) == (0, "") and found["values"] == s.values.tolist()
        assert (found["corrupted"], found["clean"]) == (s.base, s.clean)
        assert (found["layers"], found["positions"]) == ([1, 2, 3], [4, 10])
        assert (found["n_skipped"], found["flops"]) == (s.n_skipped, s.flops)
        assert found["patch"] == "z" and found["tokens"] == s.tokens and found["files"] == []


def test_a_file(command: Command, demo: lp.Model, tmp_path: Path):
    words = (*PROMPTS, "--answer", " heavy")
    values = demo.patch_map(CLEAN, CORRUPTED, metric=lp.logprob(" heavy")).values
    for name, more in (("m.npy", ()), ("m.csv", ()), ("m.dat", ("--format", "txt"))):
        path = str(tmp_path / name)
        code, out, _ = command(*words, "--out", path, *more)
        assert (code, out) == (0, path + "\n")
        style = {"format": "txt"} if more else {}
        assert lp.read(path, **style).tobytes() == values.tobytes()
    code, out, err = command(*words, "--out", path)
    assert (code, out) == (1, "") and err.startswith(f"llamaprobe: {path}: exists;")
    assert command(*words, "--out", path, "--force", "--format", "csv")[0] == 0
    assert lp.read(path, format="csv").shape == values.shape


def test_ids(command: Command, demo: lp.Model, tmp_path: Path):
    for name, text in (("a.txt", CLEAN), ("b.txt", CORRUPTED)):
        ids = demo.tokenizer.encode(text)
        (tmp_path / name).write_text(" ".join(map(str, ids)))
    heavy = int(demo.tokenizer.encode(" heavy", add_special_tokens=False)[0])
    words = ("--clean", tmp_path / "a.txt", "--corrupted", tmp_path / "b.txt", "--ids", "--json")
    by_ids = command("sweep", "demo", *words, "--answer", heavy)
    assert by_ids[:2] == command(*PROMPTS, "--answer", " heavy", "--json")[:2]
    code, _, err = command("sweep", "demo", *words, "--answer", "heavy")
    assert code == 2 and "with --ids a token is an id, not 'heavy'" in err


@pytest.mark.parametrize(
    "words, message",
    [
        (("--wrong", "a"), "the metric logit-diff takes --answer and --wrong"),
        (("--metric", "logprob"), "the metric logprob takes --answer"),
        (("--metric", "kl", "--answer", "a"), "takes neither --answer nor --wrong"),
        (("--force",), "--force is for --out"),
        (("--position", "x"), "'x' is not a position"),
        (("--positions", "1-"), "'1-' is not a list of positions such as"),
        (("--positions", ""), "no position; leave the option out for all of them"),
    ],
)
def test_wrong_usage(command: Command, words: tuple[str, ...], message: str):
    code, out, err = command(*PROMPTS, *words)
    assert (code, out) == (2, "") and message in err


@pytest.mark.parametrize(
    "words, message",
    [
        (("--answer", " Hopoa"), "the text ' Hopoa' is 4 tokens, ' H' (471), "),
        (("--patch", "logits"), "takes a point that every layer has"),
        (("--heads",), "it has no heads"),
        (("--position", "99"), "position 99 is out of range: the run of lp.kl has 11 tokens"),
        (("--answer", " heavy", "--position", "99"), "position 99 is out of range: the prompt has 11"),
        (("--out", "map.dat"), "map.dat: the name does not end in .csv, .txt"),
        (("--out", "."), ".: is a folder; give the name of a file"),
        (("--corrupted", "Hopoa"), "the clean prompt has 11 tokens and the corrupted one 5"),
    ],
)
def test_failures_are_one_line(
    command: Command, words: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch
):
    if "--out" in words:
        monkeypatch.setattr("llamaprobe.model.load", lambda *any, **how: pytest.fail("loaded"))
    code, out, err = command(*PROMPTS, *words)
    assert (code, out) == (1, "") and message in err and err.count("\n") == 1
