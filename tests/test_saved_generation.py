"""Generated runs in files: what is recorded, read back, and found by verify where it is altered."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tampering import Folder, found, left_out, mutate, other

import llamaprobe as lp
from llamaprobe.checks.verify import verify_run

STORY = (
    "Once upon a time there was a miller named Hopoa who lived behind the hills. Hopoa had a heavy"
    " bell. One night the heavy bell was gone. At last an owl found the heavy bell in the tall grass."
    " So the heavy bell came back to"
)
SAMPLE = lp.Sample(0.9, top_k=50, top_p=0.95, seed=2**64 - 1, number=3)


@pytest.fixture(scope="module")
def demo() -> lp.Model:
    return lp.load("demo")


@pytest.fixture(scope="module")
def runs(demo: lp.Model) -> dict[str, lp.GeneratedRun]:
    e = lp.Edits()
    e["x", 2][8:] *= 1.25
    e["z", 3][lp.NEW, 1].map(lambda value, at: value / 2)
    return {
        "greedy": demo.generate(STORY, 30),
        "sampled": demo.generate("Once upon a time", 12, sample=SAMPLE, points=("x", "z"), stop=()),
        "edited": demo.generate(
            "Once upon a time there was", 9, sample=SAMPLE, points="z", edits=e, stop=()
        ),
        "string": demo.generate(STORY, 30, stop=("eos", ". Ho"), points=("x", "logits")),
    }


@pytest.fixture(scope="module")
def saved(runs: dict[str, lp.GeneratedRun], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("generated")
    for name, run in runs.items():
        run.save(folder / name, format="npy")
    return folder


@pytest.fixture
def copied(saved: Path, tmp_path: Path) -> Callable[[str], Folder]:
    return lambda name: Folder(shutil.copytree(saved / name, tmp_path / name))


NAMES = ("greedy", "sampled", "edited", "string")


@pytest.mark.parametrize("name", NAMES)
def test_a_generated_run_comes_back_and_is_not_accused(demo, runs, saved, tmp_path, name: str):
    run, back = runs[name], lp.read_run(saved / name)
    assert isinstance(back, lp.GeneratedRun) and back.equals(run)
    assert back.generated == run.generated and back.text == run.text and back.prompt == run.prompt
    assert (back.stopped_by, back.sample, back.n_tokens) == (
        run.stopped_by,
        run.sample,
        run.n_tokens,
    )
    back.save(tmp_path / "again", format="npy")
    assert (tmp_path / "again" / "manifest.json").read_bytes() == (
        saved / name / "manifest.json"
    ).read_bytes()
    assert found(saved / name, demo) == [] == found(saved / name, None)
    assert left_out(saved / name, demo) == []
    whats = [check.what for check in verify_run(saved / name, demo)]
    n_new = len(run.new_ids)
    assert f"{n_new} new tokens drawn again" in whats


def test_the_manifest_records_how_tokens_were_chosen(saved: Path, runs):
    entry = json.loads((saved / "sampled" / "manifest.json").read_text())["generated"]
    run = runs["sampled"]
    assert entry == {
        "prompt_tokens": run.n_prompt,
        "n_tokens": 12,
        "rule": "lp-sample-1",
        "sample": {
            "temperature": 0.9,
            "top_k": 50,
            "top_p": 0.95,
            "seed": str(2**64 - 1),
            "number": 3,
        },
        "stop": [],
        "stopped_by": "length",
        "ids": run.new_ids.tolist(),
        "logprobs": run.logprobs.tolist(),
        "text": run.text,
    }
    greedy = json.loads((saved / "greedy" / "manifest.json").read_text())
    assert greedy["generated"]["sample"] is None and greedy["points"] == {}
    assert json.loads((saved / "greedy" / "meta_layer0.json").read_text())["prompt"] == STORY


def change_token(folder: Folder, position: int, id: int) -> None:
    """One token, wherever it is recorded."""
    text = lp.load("demo").tokenizer.pieces(np.array([id]))[0]

    def change(meta: dict) -> None:
        meta["token_ids"][position], meta["tokens"][position] = id, text

    folder.change_meta(change)
    generated = folder.manifest["generated"]
    generated["ids"][position - generated["prompt_tokens"]] = id


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("at", [0, 3, -1])
def test_one_altered_token_is_named(demo, runs, copied, name: str, at: int):
    folder, run = copied(name), runs[name]
    position = (run.n_prompt if at >= 0 else len(run)) + at
    honest = int(run.token_ids[position])
    change_token(folder, position, honest + 1)
    folder.close()
    (fault,) = [line for line in found(folder.path, demo) if line.startswith("new tokens: pos")]
    how = "the largest logit is" if run.sample is None else "lp-sample-1 draws"
    assert fault == (
        f"new tokens: position {position} is token {honest + 1}, and {how} {honest};"
        " after it all others are drawn"
    )


def test_two_altered_tokens_are_counted(demo, runs, copied):
    folder, run = copied("sampled"), runs["sampled"]
    for position in (run.n_prompt + 2, run.n_prompt + 7):
        change_token(folder, position, int(run.token_ids[position]) + 1)
    folder.close()
    fault, *_ = [line for line in found(folder.path, demo) if line.startswith("new tokens: pos")]
    assert fault.startswith(f"new tokens: position {run.n_prompt + 2} is token")
    assert f"more differ, the first at position {run.n_prompt + 7}" in fault


KEYS: dict[str, Any] = {
    "prompt_tokens": 12,
    "n_tokens": 13,
    "rule": "lp-sample-2",
    "stop": "x",
    "stopped_by": "eos",
    "text": "another",
    "ids": [1, 2],
    "logprobs": [0.0] * 12,
}


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("change", ["other", "dropped", "of another type"])
def test_an_altered_key_is_found(demo, copied, key: str, change: str):
    folder = copied("sampled")
    generated = folder.manifest["generated"]
    if change == "dropped":
        del generated[key]
    else:
        generated[key] = KEYS[key] if change == "other" else {"a": 1}
    folder.close()
    assert found(folder.path, demo)


@pytest.mark.parametrize("key", ["temperature", "top_k", "top_p", "seed", "number"])
def test_another_number_of_the_sample_is_found(demo, copied, key: str):
    values = {"temperature": 3.0, "top_k": 1, "top_p": 0.05, "seed": 1, "number": 4}
    folder = copied("sampled")
    folder.manifest["generated"]["sample"][key] = values[key]
    folder.close()
    assert [line for line in found(folder.path, demo) if "lp-sample-1 draws" in line]


@pytest.mark.parametrize("name", ["greedy", "edited"])
def test_a_logprob_is_compared_within_1e_9(demo, runs, copied, name: str):
    folder, position = copied(name), runs[name].n_prompt + 2
    logprobs = folder.manifest["generated"]["logprobs"]
    logprobs[2] += 1e-11
    folder.close()
    assert found(folder.path, demo) == []
    logprobs[2] += 1e-8
    folder.close()
    (fault,) = found(folder.path, demo)
    assert fault.startswith(f"new tokens: position {position}: logprob is")


@pytest.mark.parametrize("seed", range(20))
def test_mutated_facts_raise_only_errors(demo, copied, seed: int):
    rng = random.Random(seed)
    folder = copied(NAMES[seed % 4])
    for _ in range(1 + seed % 3):
        mutate(rng, folder.manifest["generated"])
    folder.close()
    found(folder.path, demo)
    found(folder.path, None)


def test_an_altered_end_is_found(demo, copied):
    for name, stopped_by in (("greedy", "length"), ("greedy", "interrupted"), ("string", "eos")):
        folder = copied(name)
        folder.manifest["generated"]["stopped_by"] = stopped_by
        folder.close()
        assert [line for line in found(folder.path, demo) if "stopped_by" in line]
        shutil.rmtree(folder.path)
    folder = copied("string")
    folder.manifest["generated"]["stop"] = ["eos"]
    folder.close()
    assert [line for line in found(folder.path, demo) if "stopped_by" in line]
    unchecked = {
        fact for check in verify_run(copied("greedy").path, demo) for fact in check.unchecked
    }
    assert unchecked >= {"stop", "n_tokens"}


def test_an_altered_edit_or_value_is_found(demo, copied):
    folder = copied("edited")
    folder.manifest["edits"][0]["value"] = 1.5
    folder.close()
    faults = found(folder.path, demo)
    assert [line for line in faults if line.startswith("new tokens: position")]
    shutil.rmtree(folder.path)
    folder = copied("string")
    values = np.load(folder.path / "logits.npy")
    values.view(np.uint32).flat[7] ^= 1
    np.save(folder.path / "logits.npy", values)
    folder.close()
    assert found(folder.path, demo) == ["the same tokens run again: 1 value differs in logits"]


def test_a_run_that_is_passed_off_as_its_tokens_is_one(demo, copied):
    """Without the facts and the prompt's text it is an honest run of these ids."""
    folder = copied("sampled")
    del folder.manifest["generated"]
    folder.manifest["format_version"] = 1
    folder.close()
    assert found(folder.path, demo) == [
        "meta_layer0.json: the text of prompt does not give these token_ids"
    ]
    folder.change_meta(lambda meta: meta.update(prompt=None))
    folder.close()
    assert found(folder.path, demo) == []


@pytest.mark.parametrize("points", [(), ("x",)])
def test_an_interrupted_run_is_saved_and_true(demo, tmp_path: Path, points: Any):
    def enough(position: int, id: int, text: str) -> None:
        if position == 9:
            raise KeyboardInterrupt

    e = lp.Edits()
    e["x", 1][[2, 30]] += 0.5
    e["z", 1][20:, 1] = 0
    with pytest.raises(KeyboardInterrupt) as caught:
        demo.generate("Once upon a time", 40, points=points, edits=e, on_token=enough)
    run = caught.value.run  # type: ignore[attr-defined]
    run.save(tmp_path / "run")
    assert run.stopped_by == "interrupted" and found(tmp_path / "run", demo) == []
    back = lp.read_run(tmp_path / "run")
    assert isinstance(back, lp.GeneratedRun) and back.generated == run.generated
    folder = Folder(tmp_path / "run")
    folder.manifest["generated"]["stopped_by"] = "length"
    folder.close()
    assert [line for line in found(folder.path, demo) if "stopped_by" in line]


def test_runs_of_a_session_are_true(demo, tmp_path: Path):
    e = lp.Edits()
    e["x", 2][-1:] += 0.25
    e["hidden", 1][lp.NEW, 3].map(lambda value, at: value + 1)
    session = demo.start("Once upon a time there was", points=("x", "logits"), edits=e)
    session.generate(6, sample=SAMPLE)
    session.rewind(-4)
    session.extend(" a heavy bell")
    session.copy().generate(3)
    for name, run in (("session", session.run), ("more", session.generate(4, sample=SAMPLE))):
        run.save(tmp_path / name)
        assert found(tmp_path / name, demo) == []
        assert lp.read_run(tmp_path / name).edits.session_prompt == 7
    folder = Folder(tmp_path / "more")
    folder.manifest["session_prompt_tokens"] = 8
    folder.close()
    assert [line for line in found(folder.path, demo) if "of a prompt of 8 tokens" in line]


def test_a_chat_keeps_its_prompt(demo, tmp_path: Path):
    chat = [{"role": "user", "content": "Tell me a story about Hopoa."}]
    run = demo.generate(chat, 5, points="x", date="2026-01-02")
    run.save(tmp_path / "run")
    assert (
        found(tmp_path / "run", demo) == [] and lp.read_run(tmp_path / "run").prompt == run.prompt
    )


def test_the_command_line_saves_and_verifies(command, tmp_path: Path):
    out = tmp_path / "out"
    words = ("--seed", 5, "--edit", "z[3][:, 1] = 0", "--points", "z,logits", "--out", out)
    assert command("generate", "demo", "Once upon a time", "--tokens", 8, *words)[0] == 0
    code, text, _ = command("verify", out)
    assert code == 0 and "1 edit made again" in text and "8 new tokens drawn again" in text
    folder = Folder(out)
    folder.manifest["generated"]["sample"]["seed"] = other(5)
    folder.close()
    code, text, _ = command("verify", out)
    assert code == 1 and "lp-sample-1 draws" in text
