"""llamaprobe lens and attribute: the same as Model.lens and Model.attribute."""

import json
from pathlib import Path

import pytest

import llamaprobe as lp

STORY = (
    "Once upon a time there was a miller named Hopoa who lived behind the hills."
    " So the heavy bell came back to H"
)


@pytest.fixture(scope="module")
def model() -> lp.Model:
    return lp.load("demo")


def test_lens(command, model: lp.Model):
    run = model.run(STORY, points=("x", "x_mid", "x_out"))
    code, out, _ = command("lens", "demo", STORY)
    assert code == 0 and out == f"{model.lens(run)}\n"
    code, out, _ = command(
        "lens", "demo", STORY, "--point", "x_mid", "--layers", "0,-1", "--top", 2
    )
    assert code == 0 and out == f"{model.lens(run, point='x_mid', layers=[0, -1], top=2)}\n"
    code, out, _ = command("lens", "demo", STORY, "--json", "--position", -3)
    data, lens = json.loads(out), model.lens(run, position=-3)
    assert data["position"] == 25 and data["token"] == " back"
    assert [row["row"] for row in data["rows"]] == lens.labels
    guess = lens.top(-1, 0)[0]
    found = data["rows"][-1]["tokens"][0]
    assert found == guess._asdict()


def test_tokens_by_text_and_id(command, model: lp.Model):
    code, out, _ = command("lens", "demo", STORY, "--token", "o", "--token", "id:5", "--json")
    rows = json.loads(out)["rows"]
    assert code == 0 and {token["id"] for token in rows[0]["tokens"]} == {78, 5}
    assert rows[0]["tokens"][0]["logprob"] is None


@pytest.mark.parametrize("by", ["layer", "head", "neuron", "source"])
def test_attribute(command, model: lp.Model, by: str):
    points = [p.name for p in model.points()]
    found = model.attribute(model.run(STORY, points=points), "o", against="e", by=by)
    words = ("attribute", "demo", STORY, "--against", "e", "--by", by)
    code, out, _ = command(*words)
    assert code == 0 and out == f"{found}\n", "the likeliest next token is the default"
    code, out, _ = command(*words, "--token", "o", "--json", "--top", 3)
    data = json.loads(out)
    assert data["total"] == found.total and data["rounding"] == found.rounding
    assert data["bound"] == found.bound and data["against"] == {"id": 68, "text": "e"}
    assert [each["value"] for each in data["shares"]] == [share.value for share in found.top(3)]
    assert data["shares"][0]["component"] == list(found.top(1)[0].component)


def test_a_saved_run(command, model: lp.Model, tmp_path: Path):
    points = ("x", "attn_out", "mlp_out", "x_out", "final_rms", "logits")
    model.run(STORY, points=points).save(tmp_path / "run")
    for name in ("lens", "attribute"):
        code, saved, _ = command(name, "demo", "--run", tmp_path / "run")
        _, run, _ = command(name, "demo", STORY)
        assert code == 0 and saved == run
    code, _, err = command("attribute", "demo", "--run", tmp_path / "run", "--by", "head")
    assert code == 1 and "needs z of layer 0" in err


def test_ids(command, model: lp.Model, tmp_path: Path):
    (tmp_path / "ids.txt").write_text("5 6 7")
    code, out, _ = command("lens", "demo", "--ids", tmp_path / "ids.txt")
    assert code == 0 and out == f"{model.lens(model.run([5, 6, 7], points=('x', 'x_out')))}\n"


@pytest.mark.parametrize(
    ("words", "code", "fact"),
    [
        (["lens", "demo"], 2, "give one of PROMPT"),
        (["lens", "demo", "a", "--run", "b"], 2, "give one of PROMPT"),
        (["lens", "demo", "a", "--position", "x"], 2, "is not a position"),
        (["lens", "demo", "a", "--point", "attn_out"], 2, "did you mean x_out?"),
        (["lens", "demo", "a", "--position", "99"], 1, "there is no position 99"),
        (["attribute", "demo", "a", "--by", "heads"], 2, "did you mean head?"),
        (["attribute", "demo", "a", "--token", "once upon a"], 1, "tokens, not one"),
        (["attribute", "demo", "a", "--token", "id:960"], 1, "the vocabulary has 960"),
        (["attribute", "demo", "a", "--token", "id:2147483648"], 1, "token id 2147483648 is out"),
        (["lens", "demo", "a", "--top", "99999"], 1, "top is 99999; give an integer from 1 to 960"),
        (["attribute", "demo", "--run", "missing"], 1, "missing"),
    ],
)
def test_wrong_usage(command, words: list[str], code: int, fact: str):
    found, out, err = command(*words)
    assert found == code and fact in err and out == ""
