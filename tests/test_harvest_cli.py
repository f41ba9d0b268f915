"""llamaprobe harvest, verify of a harvest, and run --prompts."""

import io
import json
import sys

import numpy as np
import pytest
from harvests import hashes

import llamaprobe as lp


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "data.jsonl"
    texts = ["Once upon a time", "The cat sat", "A dog. " * 30]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


OPTIONS = ("--points", "x:1-2,logits", "--max-tokens", 32, "--shard-rows", 40)


def test_run_prints_the_root_and_resumes(command, data, out):
    code, text, error = command("harvest", "run", "demo", data, "--out", out, *OPTIONS)
    h = lp.read_harvest(out)
    assert (code, text) == (0, f"{h.root}  {out / 'manifest.json'}\n")
    assert "3 documents" in error and "tokens/s" in error
    (out / "done/shard-00001.json").unlink()
    code, again, error = command("harvest", "run", "demo", data, "--out", out, *OPTIONS, "--quiet")
    assert (code, again, error) == (0, text, "")


def test_the_command_and_python_make_the_same_files(command, data, out, tmp_path):
    words = ("--dtype", "bf16", "--positions", "skip:1", "--order", "permuted:3", "--stride", 4)
    command("harvest", "run", "demo", data, "--out", out, *OPTIONS, *words, "--limit-tokens", "1e2")
    lp.harvest(
        lp.load("demo"),
        data,
        tmp_path / "python",
        points=["x:1-2", "logits"],
        max_tokens=32,
        shard_rows=40,
        dtype="bf16",
        positions="skip:1",
        order="permuted:3",
        stride=4,
        limit_tokens=100,
    )
    assert hashes(out) == hashes(tmp_path / "python")


def test_plan_then_parts(command, data, out):
    code, text, _ = command("harvest", "plan", "demo", data, "--out", out, *OPTIONS)
    assert (code, text) == (0, f"{out / 'plan.json'}\n")
    code, text, error = command("harvest", "run", "--plan", out, "--part", "1/2")
    assert (code, text) == (0, "") and "still missing" in error
    missing = lp.read_harvest(out).plan.missing()
    assert missing and all(number % 2 == 0 for number in missing)
    words = ("--plan", out / "plan.json", "--shards", "0", "--json")
    code, text, _ = command("harvest", "run", *words)
    assert json.loads(text) == {"root": None, "missing": len(missing) - 1}
    code, text, _ = command("harvest", "run", "--plan", out, "--json", "--no-progress")
    assert json.loads(text)["root"] == lp.read_harvest(out).root


def test_dry_run_writes_nothing(command, data, out):
    words = ("harvest", "run", "demo", data, "--out", out, *OPTIONS)
    code, text, _ = command(*words, "--dry-run")
    assert code == 0 and "hours here" in text and not out.exists()
    found = json.loads(command(*words, "--dry-run", "--json")[1])
    command(*words)
    sizes = [path.stat().st_size for path in out.rglob("shard-*.safetensors")]
    assert (found["files"], found["bytes"]) == (len(sizes), sum(sizes))
    assert found["tokens"] == lp.read_harvest(out).n_rows and found["hours"] >= 0


def test_stdin(command, out, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"Once\nThe cat\n")))
    code, _, error = command("harvest", "run", "demo", "-", "--out", out, *OPTIONS)
    assert code == 0, error
    assert lp.read_harvest(out).plan.n_documents == 2


def test_drop_verify_and_refill(command, data, out):
    command("harvest", "run", "demo", data, "--out", out, *OPTIONS)
    before = hashes(out)
    assert command("verify", out)[:2][0] == 0
    code, text, _ = command("verify", out, "--recompute", 2)
    assert code == 0 and text.endswith("checks: 0 failed, 0 left out\n")
    assert command("harvest", "drop", out, "--shards", "0")[0] == 0
    code, text, _ = command("verify", out)
    assert code == 3 and "x.1/shard-00000.safetensors" in text and "dropped" in text
    assert command("harvest", "refill", out)[0] == 0 and hashes(out) == before
    path = out / "x.1/shard-00000.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    code, text, _ = command("verify", out, "--json")
    found = json.loads(text)
    assert code == found["exit"]["code"] == 1 and found["verdict"] == "altered"
    assert [check["what"] for check in found["checks"]] == ["x.1/shard-00000.safetensors"]
    code, text, _ = command("harvest", "refill", out, "--shards", 0, "--model", "demo")
    assert code == 0 and command("verify", out)[0] == 0 and hashes(out) == before


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("demo",),
        ("demo", "a.txt"),
        ("demo", "a.txt", "--out", "o"),
        ("demo", "a.txt", "--plan", "p"),
        ("--plan", "p", "--dtype", "f16"),
        ("--plan", "p", "--part", "2/2"),
        ("--plan", "p", "--part", "1"),
        ("--plan", "p", "--shards", "3-1"),
        ("--plan", "p", "--part", "0/2", "--shards", "1"),
        ("demo", "a.txt", "--out", "o", "--points", "x", "--limit-tokens", "1.5"),
        ("demo", "a.txt", "--out", "o", "--points", "x", "--dtype", "f64"),
    ],
)
def test_wrong_usage(command, words):
    code, text, error = command("harvest", "run", *words)
    assert (code, text) == (2, "") and error.startswith("llamaprobe harvest run: error: ")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": 5}', "line 2 (document 1): text is 5"),
        ("{", "line 2 (document 1): is not JSON"),
        ('"\\ud800"', "line 2 (document 1): "),
    ],
)
def test_a_bad_document_is_one_line_and_exit_1(command, tmp_path, out, line, message):
    path = tmp_path / "bad.jsonl"
    path.write_text(f'"Once"\n{line}\n')
    code, text, error = command("harvest", "run", "demo", path, "--out", out, "--points", "x")
    assert (code, text) == (1, "") and f"{path}: {message}" in error and error.count("\n") == 1
    words = ("--points", "x", "--on-bad", "skip")
    code, _, error = command("harvest", "run", "demo", path, "--out", out, *words)
    assert code == 0 and "left out: 1 bad" in error


def test_verify_of_a_run_has_no_recompute(command, tmp_path):
    command("run", "demo", "Once", "--out", tmp_path / "run")
    code, _, error = command("verify", tmp_path / "run", "--recompute", 2)
    assert code == 2 and "--recompute is for a harvest" in error


# ---- run --prompts ----


def test_every_prompt_has_its_folder(command, tmp_path, out):
    path = tmp_path / "prompts.txt"
    path.write_text("Once upon a time\nThe cat\n")
    words = ("run", "demo", "--prompts", path, "--out", out, "--points", "x,logits")
    code, text, error = command(*words)
    assert (code, text) == (0, f"{out / '0'}\n{out / '1'}\n") and "2 prompts" in error
    model = lp.load("demo")
    for number, prompt in enumerate(["Once upon a time", "The cat"]):
        run = lp.read_run(out / str(number))
        assert run.equals(model.run(prompt, points=("x", "logits"))) and run.prompt == prompt
        assert command("verify", out / str(number))[0] == 0


def test_prompts_resume_where_they_stopped(command, tmp_path, out):
    path = tmp_path / "prompts.jsonl"
    chat = [{"role": "user", "content": "hi"}]
    lines = [{"text": "Once"}, {"input_ids": [1, 2]}, {"messages": chat}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    words = ("run", "demo", "--prompts", path, "--out", out, "--layers", "1", "--format", "npy")
    command(*words)
    times = {each: each.stat().st_mtime_ns for each in out.rglob("*.npy")}
    (out / "1" / "manifest.json").unlink()  # a save that was killed
    code, text, _ = command(*words)
    assert code == 0 and text.count("\n") == 3
    assert {each.parent.name for each, at in times.items() if each.stat().st_mtime_ns != at} == {
        "1"
    }
    assert np.array_equal(lp.read_run(out / "1").token_ids, [1, 2])
    for change in (("--layers", "2"), ("--points", "x"), ("--format", "csv")):
        changed = [*words, *change]
        code, _, error = command(*changed)
        assert code == 1 and "was begun with other" in error
    path.write_text('{"text": "Twice"}\n')
    assert "was begun with other prompts" in command(*words)[2]


def test_a_bad_prompt_is_named_or_skipped(command, tmp_path, out):
    path = tmp_path / "prompts.jsonl"
    path.write_text('"Once"\n{"text": ""}\n{"input_ids": [960]}\n["a", "b"]\n{"text": "The"}\n')
    words = ("run", "demo", "--prompts", path, "--out", out)
    code, text, error = command(*words)
    assert code == 1 and text == f"{out / '0'}\n"
    assert f"prompt 1 ({path}: line 2): the prompt is empty" in error and "--on-bad skip leaves such" in error
    code, text, error = command(*words, "--on-bad", "skip")
    assert code == 0 and text == f"{out / '0'}\n{out / '4'}\n"
    assert "prompt 2" in error and "outside the vocabulary" in error
    assert "prompt 3" in error and "a line is one prompt" in error
    assert "5 prompts, 3 skipped" in error
    found = json.loads(command(*words, "--on-bad", "skip", "--json", "--quiet")[1])
    assert found == {"folders": [str(out / "0"), str(out / "4")], "skipped": 3}


def test_prompts_from_stdin(command, out, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"Once\nThe cat\n\n")))
    code, text, _ = command("run", "demo", "--prompts", "-", "--out", out)
    assert code == 0 and text.count("\n") == 2


@pytest.mark.parametrize(
    "words",
    [
        ("text", "--prompts", "p", "--out", "o"),
        ("--prompts", "p"),
        ("--prompts", "p", "--out", "o", "--chat"),
        ("--prompts", "p", "--out", "o", "--ids", "i"),
        ("--prompts", "p", "--out", "o", "--force"),
        ("--on-bad", "skip", "text"),
    ],
)
def test_wrong_usage_of_prompts(command, words):
    code, text, error = command("run", "demo", *words)
    assert (code, text) == (2, "") and error.startswith("llamaprobe run: error: ")


def test_a_file_without_prompts(command, tmp_path, out):
    (tmp_path / "p.txt").write_text("\n\n")
    code, _, error = command("run", "demo", "--prompts", tmp_path / "p.txt", "--out", out)
    assert code == 1 and "holds no prompt" in error
