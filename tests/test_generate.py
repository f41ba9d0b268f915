"""Model.generate: the law that it is a run of the whole text, how tokens are chosen, when texts end."""

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest
import sample_rule
import small_tokenizer

import llamaprobe as lp
from llamaprobe import _core

STORY = (
    "Once upon a time there was a miller named Hopoa who lived behind the hills. Hopoa had a heavy"
    " bell. A friend named Torsa owned a wooden clock. One night the heavy bell was gone. They looked"
    " under the bridge and on the roof. At last an owl found the heavy bell in the tall grass. So the"
    " heavy bell came back to"
)
PROMPTS: list[Any] = [STORY, [5], "Once upon a time", list(range(40))]
POINTS = ("x", "scores", "pattern", "z", "hidden", "logits")


@pytest.fixture(scope="module")
def demo() -> lp.Model:
    return lp.load("demo", threads=2)


def check_law(model: lp.Model, run: lp.GeneratedRun, points: Any) -> None:
    whole = model.run(run.token_ids, points=points, edits=run.edits, rope_length=run.rope_length)
    assert run.equals(whole)


# ---- the law ----


@pytest.mark.parametrize("prompt", PROMPTS, ids=["text", "one", "short", "ids"])
@pytest.mark.parametrize("threads", [1, 3])
def test_generate_is_a_run_of_the_whole_text(demo: lp.Model, prompt: Any, threads: int):
    run = demo.generate(prompt, 12, points="all", stop=(), threads=threads)
    check_law(demo, run, "all")
    assert len(run) == run.n_prompt + 12 and run["pattern"].shape[2:] == (len(run), len(run))
    plain = demo.generate(prompt, 12, stop=(), threads=threads)
    assert plain.points == () and plain.token_ids.tolist() == run.token_ids.tolist()
    assert plain.logprobs.tolist() == run.logprobs.tolist() and plain.text == run.text


@pytest.mark.parametrize(
    "points", ["logits", "final_rms", ("z", 3), ("pattern", "k_rope"), ("x_out", "x.before")]
)
def test_the_law_holds_for_any_points_and_layers(demo: lp.Model, points: Any):
    for layers in (None, [2]) if points != ("z", 3) else (None,):
        run = demo.generate(
            STORY, 9, points=points, layers=layers, stop=(), sample=lp.Sample(seed=2)
        )
        assert run.equals(demo.run(run.token_ids, points=points, layers=layers))


def test_a_prompt_of_a_batch_gets_what_it_gets_alone(demo: lp.Model):
    samples = [None, lp.Sample(seed=1), lp.Sample(0.5, top_p=0.9), lp.Sample(2.0, number=3)]
    how: dict[str, Any] = {"points": POINTS, "stop": ("eos", "e")}
    runs = demo.generate(PROMPTS, 20, sample=samples, **how)
    assert len({len(run.new_ids) for run in runs}) > 1, "they end at different times"
    for prompt, sample, run in zip(PROMPTS, samples, runs, strict=True):
        alone = demo.generate(prompt, 20, sample=sample, **how)
        assert run.equals(alone) and run.stopped_by == alone.stopped_by and run.text == alone.text
        assert run.logprobs.tolist() == alone.logprobs.tolist()
        check_law(demo, run, POINTS)
    plain = demo.generate(PROMPTS, 20, sample=samples, stop=("eos", "e"))
    assert [r.token_ids.tolist() for r in plain] == [r.token_ids.tolist() for r in runs]


def test_the_law_holds_with_edits(demo: lp.Model):
    e = lp.Edits()
    e["x", 2][-3:] *= 2
    e["z", 3][lp.NEW, 1] = 0
    e["scores", 1][:, -1, 2] = -np.inf
    e["logits"][lp.DECIDING, :40] = -np.inf
    e["v", 0][lp.PROMPT] += 0.25
    points = ("z", "z.before", "pattern", "v", "x_out", "logits")
    run = demo.generate(STORY, 10, points=points, edits=e, stop=(), sample=lp.Sample(seed=5))
    check_law(demo, run, points)
    n_changed = demo.run(run.token_ids, points=points, edits=run.edits).edits
    assert [one.n_changed for one in run.edits] == [one.n_changed for one in n_changed]
    assert (run.new_ids >= 40).all() and all(one.n_changed for one in run.edits)
    plain = demo.generate(STORY, 10, edits=e, stop=(), sample=lp.Sample(seed=5))
    assert plain.token_ids.tolist() == run.token_ids.tolist()
    other = demo.generate(STORY, 10, stop=(), sample=lp.Sample(seed=5))
    assert other.token_ids.tolist() != run.token_ids.tolist()


def test_a_batch_has_edits_of_its_own(demo: lp.Model):
    e = lp.Edits()
    e["x", 1][lp.DECIDING, 3] += 4
    runs = demo.generate([STORY, STORY, "Once"], 8, edits=[e, None, e], points="x", stop=())
    for run, edits in zip(runs, [e, None, e], strict=True):
        alone = demo.generate(run.token_ids[: run.n_prompt], 8, edits=edits, points="x", stop=())
        assert run.equals(alone) and len(run.edits) == (edits is not None)


def test_a_function_of_edits_sees_absolute_positions(demo: lp.Model):
    seen = []

    def note(value: np.ndarray, at: Any) -> None:
        seen.append((at.prompt, at.step, at.positions.tolist()))

    e = lp.Edits()
    e["x", 1].map(note)
    demo.generate([[5, 6, 7], [8]], 3, edits=e, stop=())
    assert seen == [
        *((0, 0, [0, 1, 2]), (1, 0, [0])),
        *((0, 1, [3]), (1, 1, [1])),
        *((0, 2, [4]), (1, 2, [2])),
    ]


def test_an_edit_of_a_position_that_is_not_reached_has_the_run(demo: lp.Model):
    n = len(demo.tokenizer.encode(STORY))
    e = lp.Edits()
    e["x", 1][n + 40, 0] = 1
    with pytest.raises(lp.EditError, match=f"position {n + 40} was not reached") as error:
        demo.generate(STORY, 50, edits=e)
    assert error.value.run.stopped_by == "eos" and error.value.run.text.startswith(" Hopoa.")
    with pytest.raises(lp.EditError):  # before the first product
        demo.generate(STORY, 20, edits=e)


@pytest.mark.parametrize("case", ["mqa", "llama3-rope", "odd-sizes", "f16", "wide-heads"])
def test_the_law_holds_for_small_models(case: str, tmp_path: Path):
    made = next(one for one in models.cases() if one.name == case)
    folder, ids = made.make(tmp_path / "model")
    model = lp.load(folder)
    for run in model.generate([ids, ids[:1]], 8, points="all", stop=(), sample=lp.Sample(seed=1)):
        check_law(model, run, "all")
        assert run.text is None and run.tokens is None


@pytest.mark.parametrize("variant", [name for name, here in _core.kernels() if here])
def test_every_variant_generates_the_same(
    demo: lp.Model, variant: str, monkeypatch: pytest.MonkeyPatch
):
    how: dict[str, Any] = {"points": "all", "sample": lp.Sample(1.3, top_p=0.9, seed=6), "stop": ()}
    here = demo.generate([STORY, "Once"], 6, **how)
    monkeypatch.setenv("LLAMAPROBE_KERNELS", variant)
    assert _core.kernel_in_use() == variant
    for run, other in zip(here, demo.generate([STORY, "Once"], 6, **how), strict=True):
        assert run.equals(other) and run.token_ids.tolist() == other.token_ids.tolist()


def test_positions_beyond_a_block_of_keys(demo: lp.Model):
    """Rows 60 to 70 and 250 to 262, one at a time, cross edges of blocks and panels."""
    for n in (60, 250):
        run = demo.generate([(7 * i) % 900 for i in range(n)], 12, points=("z", "pattern"), stop=())
        check_law(demo, run, ("z", "pattern"))


# ---- choosing ----


def test_greedy_takes_the_likeliest(demo: lp.Model):
    run = demo.generate(STORY, 20, points="logits")
    assert run.text == " Hopoa. Hopoa was happy and thanked everybody." and run.stopped_by == "eos"
    for i, id in enumerate(run.new_ids.tolist()):
        row = run["logits"][run.n_prompt - 1 + i]
        assert (
            id == int(row.argmax()) and abs(run.logprobs[i] - sample_rule.logprob(row, id)) < 1e-9
        )


@pytest.mark.parametrize(
    "how",
    [
        {"seed": 3},
        {"temperature": 1.5, "top_k": 9, "seed": 1, "number": 2},
        {"temperature": 0.7, "top_p": 0.8, "seed": 2**64 - 1},
    ],
)
def test_drawn_tokens_are_those_of_the_rule(demo: lp.Model, how: dict[str, Any]):
    """Each from its logits and its position alone, in NumPy."""
    run = demo.generate(STORY, 30, sample=lp.Sample(**how), stop=(), points="logits")
    for position in range(run.n_prompt, len(run)):
        row = run["logits"][position - 1]
        assert run.token_ids[position] == sample_rule.draw(row, position, **how)
        id, logprob = int(run.token_ids[position]), run.logprobs[position - run.n_prompt]
        assert abs(logprob - sample_rule.logprob(row, id)) < 1e-9


def test_forced_tokens_change_no_later_draw(demo: lp.Model):
    """A text that is resumed goes on as if it had not been interrupted."""
    sample = lp.Sample(1.2, seed=9)
    whole = demo.generate(STORY, 20, sample=sample, stop=())
    part = demo.generate(STORY, 7, sample=sample, stop=())
    rest = demo.generate(part.token_ids, 13, sample=sample, stop=())
    assert rest.token_ids.tolist() == whole.token_ids.tolist()
    others = [demo.generate(STORY, 20, sample=lp.Sample(seed=9, number=n)) for n in range(5)]
    assert len({run.text for run in others}) > 2


def test_stories260k_continues_its_story(stories: Path):
    import stories260k

    model = lp.load(stories)
    run = model.generate([1], len(stories260k.STORY) - 1)
    assert run.token_ids.tolist() == stories260k.STORY and run.text is None


# ---- endings ----


def test_the_ends_of_a_text(demo: lp.Model):
    run = demo.generate(STORY, 50)
    assert run.stopped_by == "eos" and run.new_ids[-1] == 956 and len(run.logprobs) == 16
    assert (
        demo.generate(STORY, 16).stopped_by == "eos"
        and demo.generate(STORY, 15).stopped_by == "length"
    )
    on = demo.generate(STORY, 50, stop=())
    assert on.stopped_by == "length" and len(on.new_ids) == 50
    assert on.new_ids[:16].tolist() == run.new_ids.tolist()


@pytest.mark.parametrize(
    ("stop", "text", "by"),
    [
        ("poa", " Ho", "stop:poa"),
        (". Ho", " Hopoa", "stop:. Ho"),
        (("eos", "was", "oa was"), " Hopoa. Hop", "stop:oa was"),
        (("happy", "app"), " Hopoa. Hopoa was h", "stop:app"),
        (" ", "", "stop: "),
        ("nowhere", " Hopoa. Hopoa was happy and thanked everybody.", "length"),
        (
            "<|end_of_text|>",
            " Hopoa. Hopoa was happy and thanked everybody.",
            "stop:<|end_of_text|>",
        ),
    ],
)
def test_stop_strings_cross_the_borders_of_tokens(demo: lp.Model, stop: Any, text: str, by: str):
    pieces: list[str] = []
    run = demo.generate(STORY, 16, stop=stop, on_token=lambda p, i, t: pieces.append(t))
    assert (run.text, run.stopped_by) == (text, by) and "".join(pieces) == text
    stops = [one for one in ([stop] if isinstance(stop, str) else stop) if one != "eos"]
    before = demo.tokenizer.decode(run.new_ids[:-1])
    assert not any(one in before for one in stops), "it ended with the first token that could"


def test_ends_come_from_three_files(random_checkpoint: Callable[..., Path], tmp_path: Path):
    from llamaprobe.generation.stops import end_ids

    folder = random_checkpoint(eos_token_id=[7, 8], vocab_size=300)
    config = lp.load(folder).config
    assert end_ids(config, folder, None) == {7, 8}
    (folder / "generation_config.json").write_text('{"eos_token_id": 9}')
    small_tokenizer.write_folder(folder, small_tokenizer.byte_level())
    model = lp.load(folder)
    assert end_ids(model.config, folder, model.tokenizer) == {7, 8, 9, small_tokenizer.EOT}
    (folder / "generation_config.json").write_text('{"eos_token_id": "9"}')
    with pytest.raises(lp.ConfigError, match=r'generation_config.json: eos_token_id is "9"'):
        model.generate([1], 2)
    assert len(model.generate([1], 2, stop=()).new_ids) == 2


# ---- streaming ----


def test_on_token_sees_each_token_at_once(demo: lp.Model):
    seen: list[tuple[int, int, str]] = []
    run = demo.generate(STORY, 30, on_token=lambda *token: seen.append(token))
    assert [position for position, _, _ in seen] == list(range(run.n_prompt, len(run)))
    assert [id for _, id, _ in seen] == run.new_ids.tolist()
    assert "".join(text for _, _, text in seen) == run.text


def test_each_prompt_of_a_batch_has_its_own_function(demo: lp.Model):
    seen: list[list[str]] = [[], []]
    add = [lambda p, i, t: seen[0].append(t), None]
    runs = demo.generate([STORY, "Once"], 20, on_token=add)
    assert "".join(seen[0]) == runs[0].text and not seen[1]
    for wrong in (lambda p, i, t: None, [None], "x"):
        with pytest.raises(lp.ArgumentError, match="a list of 2 functions, one for each prompt"):
            demo.generate([STORY, "Once"], 3, on_token=wrong)
    with pytest.raises(lp.ArgumentError, match="give one function"):
        demo.generate(STORY, 3, on_token=[None])


def test_a_progress_bar_counts_tokens(demo: lp.Model, capsys: pytest.CaptureFixture[str]):
    demo.generate(STORY, 5, progress=True)
    assert "token" in capsys.readouterr().err


# ---- prompts ----


def test_a_chat_ends_with_its_turn(demo: lp.Model):
    chat = [{"role": "user", "content": "Tell me a story about Hopoa."}]
    run = demo.generate(chat, 200, date="2025-01-31")
    assert run.stopped_by == "eos" and run.new_ids[-1] == 959 and run.template_date == "2025-01-31"
    assert run.text.startswith("Once upon a time, ") and run.text.endswith("thanked everybody.")
    assert run.prompt.endswith("<|start_header_id|>assistant<|end_header_id|>\n\n")
    both = demo.generate([chat, STORY], 200, date="2025-01-31")
    assert [one.text for one in both] == [run.text, demo.generate(STORY, 200).text]


def test_what_is_refused_before_anything_is_computed(demo: lp.Model):
    for n in (0, -1, 1.5, True, "3", None):
        with pytest.raises(lp.ArgumentError, match="n_tokens is .*of at least 1"):
            demo.generate(STORY, n)
    for stop in (3, [""], ["eos", None], ""):
        with pytest.raises(lp.ArgumentError, match="^stop is"):
            demo.generate(STORY, 3, stop=stop)
    with pytest.raises(lp.ArgumentError, match="make 2053 tokens, over the 2048 positions"):
        demo.generate([1, 2, 3, 4, 5], 2048)
    with pytest.raises(lp.ArgumentError, match="n_prompts|sample has 1 item for 2 prompts"):
        demo.generate(["a", "b"], 3, sample=[lp.Sample()])
    with pytest.raises(lp.PointError):
        demo.generate(STORY, 3, points="nope")
    with pytest.raises(lp.ArgumentError, match="prompt is empty"):
        demo.generate("", 3)


def test_a_stop_string_needs_a_tokenizer(random_checkpoint: Callable[..., Path]):
    model = lp.load(random_checkpoint())
    with pytest.raises(lp.ArgumentError, match="the model has no tokenizer"):
        model.generate([1, 2], 4, stop="x")
    assert model.generate([1, 2], 4, stop="eos").text is None


def test_logits_that_choose_no_token(demo: lp.Model):
    e = lp.Edits()
    e["logits"][-1] = -np.inf
    with pytest.raises(lp.ArgumentError, match="position 3 are all -inf"):
        demo.generate([4, 5, 6], 3, edits=e)
    with pytest.raises(
        lp.ArgumentError, match=r"^prompt 1 of 2 \('Once'\): the logits that choose"
    ):
        demo.generate([STORY, "Once"], 3, edits=[None, e])


def test_memory_is_checked_first(demo: lp.Model, monkeypatch: pytest.MonkeyPatch):
    from llamaprobe import _core

    monkeypatch.setattr(_core, "memory", lambda: 1_000_000)
    with pytest.raises(lp.OutOfMemory, match=r"1001 tokens need \d+ bytes and 1000000 are free"):
        demo.generate([1], 1000, points="pattern")


# ---- the result ----


def test_a_generated_run_is_a_run(demo: lp.Model, tmp_path: Path):
    sample = lp.Sample(0.8, seed=4)
    run = demo.generate(STORY, 9, points=("x", "logits"), sample=sample, stop=("eos", "zzz"))
    for other in (pickle.loads(pickle.dumps(run)), copy.deepcopy(run)):
        assert other.equals(run) and other.text == run.text and other.sample == sample
        assert other.stop == ("eos", "zzz") and other.stopped_by == run.stopped_by
        assert other.logprobs.tolist() == run.logprobs.tolist()
    assert (
        repr(run).splitlines()[0].endswith(" 9 of them new (length), layers 0-3, points x, logits>")
    )
    assert repr(run).endswith('run.save("folder")') and run.prompt == STORY
    assert "no points" in repr(demo.generate(STORY, 2))
    run.save(tmp_path / "saved", format="npy")
    assert lp.read_run(tmp_path / "saved").equals(run)


def test_a_run_that_ended_early_has_arrays_of_its_own_length(demo: lp.Model):
    run = demo.generate(STORY, 500, points=("x", "pattern"))
    assert run["x"].shape[1] == len(run) and run["x"].flags.c_contiguous and run["x"].base is None


def test_a_saved_run_of_a_chat_is_verified(demo: lp.Model, tmp_path: Path):
    from llamaprobe.checks.verify import verify_run

    chat = [{"role": "user", "content": "Tell me a story."}]
    run = demo.generate(chat, 9, points=("x", "logits"), template_vars={"mood": "sad"})
    run.save(tmp_path / "saved", format="npy")
    checks = list(verify_run(tmp_path / "saved", demo))
    assert len(checks) > 3 and [check for check in checks if check.fault] == []
    assert lp.read_run(tmp_path / "saved").equals(run)
