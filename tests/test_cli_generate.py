"""llamaprobe generate: its output, files, usage, exit codes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import llamaprobe as lp
from llamaprobe.cli.generate import _harmless

Command = Callable[..., tuple[int, str, str]]
STORY = (
    "Once upon a time there was a miller named Hopoa who lived behind the hills. Hopoa had a heavy"
    " bell. One night the heavy bell was gone. At last an owl found the heavy bell in the tall grass."
    " So the heavy bell came back to"
)


@pytest.fixture(scope="module")
def demo() -> lp.Model:
    return lp.load("demo")


def test_text_goes_to_stdout_and_facts_to_stderr(command: Command, demo: lp.Model):
    code, out, err = command("generate", "demo", STORY)
    run = demo.generate(STORY, 100)
    assert (code, out) == (0, run.text + "\n") and run.stopped_by == "eos"
    assert err == f"llamaprobe: {len(run.new_ids)} new tokens, ended by eos\n"
    assert command("generate", "demo", STORY, "--quiet")[1:] == (out, "")
    code, out, err = command("generate", "demo", STORY, "--tokens", 3, "--no-eos")
    assert out == demo.generate(STORY, 3).text + "\n" and "3 new tokens, ended by length" in err


def test_sampling_options(command: Command, demo: lp.Model):
    def text(*words: Any) -> str:
        return command("generate", "demo", "Once", "--tokens", 12, "--no-eos", *words)[1][:-1]

    for words, sample in (
        (("--seed", 3), lp.Sample(seed=3)),
        (("--temperature", 0.5), lp.Sample(0.5)),
        (("--top-k", 5, "--number", 2), lp.Sample(top_k=5, number=2)),
        (("--top-p", 0.7, "--seed", 2**64 - 1), lp.Sample(top_p=0.7, seed=2**64 - 1)),
    ):
        assert text(*words) == demo.generate("Once", 12, stop=(), sample=sample).text


def test_stop_strings_and_edits(command: Command, demo: lp.Model):
    code, out, err = command("generate", "demo", STORY, "--stop", "happy", "--stop", ". Ho")
    assert (code, out) == (0, " Hopoa\n") and err.endswith("ended by stop:. Ho\n")
    e = lp.Edits()
    e["z", 3][:, 1] = 0
    words = ("--edit", "z[3][:, 1] = 0", "--tokens", 9)
    assert (
        command("generate", "demo", STORY, *words)[1]
        == demo.generate(STORY, 9, edits=e).text + "\n"
    )


def test_a_chat(command: Command, demo: lp.Model):
    code, out, _ = command(
        "generate", "demo", "Tell me a story about Hopoa.", "--chat", "--tokens", 9
    )
    chat = [{"role": "user", "content": "Tell me a story about Hopoa."}]
    assert (code, out) == (0, demo.generate(chat, 9).text + "\n")


def test_json(command: Command, demo: lp.Model):
    words = ("--json", "--tokens", 5, "--temperature", 0.8, "--edit", "x[1][-1, 0] += 2")
    code, out, _ = command("generate", "demo", "Once", *words)
    found, e = json.loads(out), lp.Edits.parse("x[1][-1, 0] += 2")
    run = demo.generate("Once", 5, sample=lp.Sample(0.8), edits=e)
    assert code == 0 and found["token_ids"] == run.token_ids.tolist()
    assert (found["text"], found["stopped_by"], found["files"]) == (run.text, "length", [])
    assert (found["n_prompt"], found["logprobs"]) == (run.n_prompt, run.logprobs.tolist())
    assert found["sample"] == {
        "temperature": 0.8,
        "top_k": None,
        "top_p": None,
        "seed": 0,
        "number": 0,
    }
    assert len(found["edits"]) == 1 and found["prompt"] == "Once"


def test_files(command: Command, demo: lp.Model, tmp_path: Path):
    words = ("--tokens", 4, "--out", tmp_path / "a", "--points", "z,logits", "--layers", "3")
    code, out, err = command("generate", "demo", STORY, *words, "--format", "npy")
    run = demo.generate(STORY, 4, points=["z", "logits"], layers=[3])
    assert (code, out) == (0, run.text + "\n") and "files" in err
    assert lp.read_run(tmp_path / "a").equals(run)
    assert command("verify", tmp_path / "a")[0] == 0
    code, out, err = command("generate", "demo", STORY, *words)
    assert code == 1 and not out and "holds a saved run" in err


def test_a_model_without_a_tokenizer_shows_ids(
    command: Command, random_checkpoint: Callable[..., Path], tmp_path: Path
):
    folder = random_checkpoint()
    np.save(tmp_path / "ids.npy", [1, 5, 9])
    code, out, _ = command("generate", folder, "--ids", tmp_path / "ids.npy", "--tokens", 4)
    run = lp.load(folder).generate([1, 5, 9], 4)
    assert (code, out) == (0, " ".join(map(str, run.new_ids)) + "\n")


@pytest.mark.parametrize(
    ("words", "fact"),
    [
        ([], "give a PROMPT"),
        (["Once", "--points", "x"], "--points is for --out DIR"),
        (["Once", "--layers", "1"], "--layers is for --out DIR"),
        (["Once", "--force"], "--force is for --out DIR"),
        (["Once", "--temperature", "0"], "--temperature is 0; it must be above 0"),
        (["Once", "--top-p", "1.5"], r"--top-p is 1.5; give a number in"),
        (["Once", "--top-k", "0"], "--top-k is 0"),
        (["Once", "--seed", "-1"], "seed"),
        (["Once", "--tokens", "0"], "not a number from 1"),
        (["Once", "--stop", ""], "argument --stop: the text is empty"),
        (["Once", "--system", "x"], "--system is for --chat"),
    ],
)
def test_wrong_usage(command: Command, words: list[str], fact: str):
    code, out, err = command("generate", "demo", *words)
    assert (code, out) == (2, "") and fact in err and len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "fact"),
    [
        (["--tokens", "3000"], "over the 2048 positions"),
        (["--edit", "z[9][:] = 0"], "there is no layer 9"),
        (["--edit", "nonsense"], "nonsense"),
    ],
)
def test_mistakes_are_one_line(command: Command, words: list[str], fact: str):
    code, out, err = command("generate", "demo", "Once", *words)
    assert code == 1 and not out and fact in err and len(err.splitlines()) == 1


def test_a_terminal_gets_no_control_characters():
    assert _harmless("a\n\tb\x1b[2J\x07\x9b é🎉") == "a\n\tb\\x1b[2J\\x07\\x9b é🎉"
