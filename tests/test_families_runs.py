"""Models of every family that the core runs: exact values, and the same bits however they are run."""

import json
from pathlib import Path

import family_models
import family_truth
import models
import numpy as np
import pytest
import truth
from family_bits import check_same_bits

import llamaprobe as lp
from llamaprobe.checks.verify import verify_run
from llamaprobe.cli.main import main
from llamaprobe.config import Config
from llamaprobe.families.points import absent
from llamaprobe.hub.listing import shards
from llamaprobe.reference import forward

pytestmark = pytest.mark.skipif(not truth.available(), reason="torch or transformers is missing")

CASES = {case.name: case for case in family_models.family_cases() + family_models.drawn_cases(3)}
CLOSE = 3e-5
PROMPTS = 6
WORSE = 1.5  # so many times as far from the truth as transformers in float32
NORM_INPUTS = {"x": "x", "x_mid": "x_mid", "q": "q", "k": "k", "attn": "attn_out", "mlp": "mlp_out"}


@pytest.fixture(scope="module")
def folders() -> dict[str, Path]:
    return {}


@pytest.fixture
def made(request, folders, tmp_path_factory) -> tuple[family_models.FamilyCase, Path]:
    """A case and its folder."""
    case = CASES[request.param]
    if case.name not in folders:
        folders[case.name] = case.make(tmp_path_factory.mktemp(case.name))
    return case, folders[case.name]


@pytest.mark.parametrize("made", CASES, indirect=True)
def test_every_value_is_as_exact_as_that_of_transformers(
    made: tuple[family_models.FamilyCase, Path],
) -> None:
    """On the geometric mean of some prompts: in models so small, errors of one vary by half."""
    case, folder = made
    model, weights = lp.load(folder), models.read_checkpoint(folder)
    ratios: dict[str, list[float]] = {}
    for seed in range(PROMPTS):
        ids = np.random.default_rng(seed).integers(0, 97, case.n_tokens).tolist()
        run = model.run(ids, points="all")
        exact = forward(model.config, weights, ids)
        assert list(run.points) == [point.name for point in model.points()]
        assert set(run.points) == set(exact) and not set(run.points) & set(absent(model.config))
        for point in run.points:
            assert run[point].shape == exact[point].shape, point
            assert truth.norm_error(run[point], exact[point]) <= CLOSE, point
        hold_norms(model.config, run)
        own = family_truth.observe_family(folder, model.config, ids, in_float64=False)
        assert set(own) == {p for p in exact if not p.endswith(("_rms", "_unit"))}
        for point, value in own.items():
            error, its = worst(run[point], exact[point], point), worst(value, exact[point], point)
            ratios.setdefault(point, []).append(max(error, truth.FLOOR) / max(its, truth.FLOOR))
    means = {point: float(np.exp(np.mean(np.log(found)))) for point, found in ratios.items()}
    assert {point: mean for point, mean in means.items() if not mean <= WORSE} == {}


def worst(values: np.ndarray, exact: np.ndarray, point: str) -> float:
    """The error of a point in its worst layer."""
    if point in ("final_norm", "logits", "logits_raw"):
        return truth.norm_error(values, exact)
    return max(map(truth.norm_error, values, exact))


def hold_norms(config: Config, run: lp.Run) -> None:
    """rms and unit are those of the value that was normed, rounded once or twice."""
    for stem, takes in NORM_INPUTS.items():
        if f"{stem}_norm" not in config.norms:
            continue
        x = run[takes].astype(np.float64)
        if config.qk_norm_whole and stem in ("q", "k"):
            x = x.reshape(*x.shape[:2], -1)
        rms = np.sqrt(np.mean(x * x, axis=-1) + config.rms_norm_eps)
        unit = run[f"{stem}_unit"].reshape(x.shape)
        assert truth.norm_error(run[f"{stem}_rms"], rms) <= 1e-7, stem
        assert truth.norm_error(unit, x / rms[..., None]) <= 1e-7, stem


@pytest.mark.parametrize("made", CASES, indirect=True)
def test_bits_depend_on_nothing_but_model_and_prompt(
    made: tuple[family_models.FamilyCase, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    case, folder = made
    ids = models.make_token_ids({"vocab_size": 97}, case.n_tokens)
    other = models.make_token_ids({"vocab_size": 97}, 40)[::-1]
    model = lp.load(folder)
    check_same_bits(model, ids, other, monkeypatch)


@pytest.mark.parametrize("made", ["phi3-long"], indirect=True)
def test_prompts_of_a_batch_choose_their_own_table(
    made: tuple[family_models.FamilyCase, Path],
) -> None:
    _, folder = made
    model = lp.load(folder)
    short, long = ([3, *range(n)] for n in (15, 16))  # original_max_position_embeddings is 16
    both = model.run([short, long], points=["q", "q_rope"], layers=0)
    assert both[0].equals(model.run(short, points=["q", "q_rope"], layers=0))
    assert both[1].equals(model.run(long, points=["q", "q_rope"], layers=0))
    assert np.array_equal(both[0]["q"], both[1]["q"][:, :16])
    assert not np.array_equal(both[0]["q_rope"], both[1]["q_rope"][:, :16])


@pytest.mark.parametrize("made", ["phi3-long"], indirect=True)
def test_rope_length_chooses_the_table(
    made: tuple[family_models.FamilyCase, Path], tmp_path: Path
) -> None:
    model, weights = lp.load(made[1]), models.read_checkpoint(made[1])
    for n, rope_length in ((9, 17), (20, 16), (9, None), (16, 16)):
        ids = list(range(3, 3 + n))
        run = model.run(ids, points=["q_rope", "logits"], rope_length=rope_length)
        exact = forward(model.config, weights, ids, rope_length=rope_length)
        assert truth.norm_error(run["q_rope", 0], exact["q_rope"][0]) < 1e-6
        assert truth.norm_error(run["logits"], exact["logits"]) <= CLOSE
    short, long = (model.run([3, 4, 5], points="logits", rope_length=n) for n in (None, 17))
    assert not short.equals(long) and long.meta["rope_length"] == 17
    assert "rope_length" not in short.meta
    long.save(tmp_path / "run")
    again = lp.read_run(tmp_path / "run")
    assert again.equals(long) and again.rope_length == 17
    manifest = tmp_path / "run" / "manifest.json"
    assert json.loads(manifest.read_text())["rope_length"] == 17
    assert not [check for check in verify_run(tmp_path / "run", model) if check.fault]
    manifest.write_text(manifest.read_text().replace('"rope_length": 17', '"rope_length": 18'))
    assert [c.what for c in verify_run(tmp_path / "run", model) if c.fault] == ["manifest.json"]
    for wrong in (0, -1, 1.5, "17", True, 1 << 31):
        with pytest.raises(lp.ArgumentError, match="rope_length is"):
            model.run([1], rope_length=wrong)


@pytest.mark.parametrize("made", ["phi3-long"], indirect=True)
def test_rope_length_on_the_command_line(
    made: tuple[family_models.FamilyCase, Path], tmp_path: Path, command
) -> None:
    (tmp_path / "ids").write_text("3 4 5")
    (tmp_path / "prompts.jsonl").write_text('{"input_ids": [3, 4, 5]}')
    one = ["run", made[1], "--ids", tmp_path / "ids", "--points", "q_rope", "--rope-length", 17]
    many = ["run", made[1], "--prompts", tmp_path / "prompts.jsonl", *one[4:]]
    long = lp.load(made[1]).run([3, 4, 5], points="q_rope", rope_length=17)
    for arguments, folder in ((one, tmp_path / "one"), (many, tmp_path / "many")):
        assert command(*arguments, "--out", folder)[0] == 0
        again = lp.read_run(next(folder.rglob("manifest.json")).parent)
        assert again.equals(long) and again.meta["rope_length"] == 17
    assert command(*one[:-1], "0")[0] == 2


SAVED = ["qwen3-yarn", "olmo2", "granite", "phi3-long", "smollm3-interval", "granite4", "helium"]


@pytest.mark.parametrize("made", SAVED, indirect=True)
def test_a_saved_run_is_read_back_and_verified(
    made: tuple[family_models.FamilyCase, Path], tmp_path: Path
) -> None:
    case, folder = made
    model = lp.load(folder)
    run = model.run([1, *range(40, 60)], points="all")
    run.save(tmp_path / "run", format="npy")
    again = lp.read_run(tmp_path / "run")
    assert again.equals(run) and again.meta == run.meta
    assert again.meta["family"] == model.config.family
    again.save(tmp_path / "again", format="npy")
    assert lp.read_run(tmp_path / "again").equals(run)
    checks = list(verify_run(tmp_path / "run", model))
    assert not [check for check in checks if check.fault]
    assert {check.what for check in checks if check.roundings is not None} == set(run.points)
    changed = tmp_path / "run" / "x_mid_layer1.npy"
    array = np.load(changed)
    array.flat[5] = np.nextafter(array.flat[5], np.float32(9))
    np.save(changed, array)
    assert any(check.fault for check in verify_run(tmp_path / "run", model))


@pytest.mark.parametrize("made", ["mistral"], indirect=True)
def test_the_text_of_a_model_of_text_and_images(
    made: tuple[family_models.FamilyCase, Path], tmp_path: Path
) -> None:
    """Its tensors stand below language_model, and those of the images are not used."""
    text = json.loads((made[1] / "config.json").read_text())
    weights = models.read_checkpoint(made[1])
    tied = text.pop("tie_word_embeddings", False)
    outer = {"model_type": "mistral3", "text_config": text, "tie_word_embeddings": tied}
    (tmp_path / "config.json").write_text(json.dumps(outer))
    inside = {f"language_model.{name}": value for name, value in weights.items()}
    models.write_checkpoint(
        tmp_path, outer, inside | {"vision_tower.patch.weight": np.ones((2, 2))}, "F32"
    )
    with pytest.warns(UserWarning, match="1 tensor of its weights is not used: vision_tower.patch"):
        model = lp.load(tmp_path)
    ids = list(range(5, 25))
    whole = lp.load(made[1]).run(ids, points="all")
    assert model.run(ids, points="all").equals(whole)
    assert model.n_params == lp.load(made[1]).n_params
    with pytest.warns(UserWarning):
        two = lp.load(tmp_path, layers=2)
    assert np.array_equal(two.run(ids)["x"], whole["x"][:2])


def test_shards_of_the_text_of_a_model_with_images() -> None:
    names = ["model.embed_tokens.weight", "model.layers.0.x", "model.layers.1.x", "lm_head.weight"]
    held = {f"language_model.{name}": f"{i}.safetensors" for i, name in enumerate(names)}
    index = json.dumps({"weight_map": held}).encode()
    assert shards(index, [0]) == {"0.safetensors", "1.safetensors"}
    assert shards(index, [1], head=True) == {f"{i}.safetensors" for i in (0, 2, 3)}


@pytest.mark.parametrize("made", ["olmo2"], indirect=True)
def test_the_points_of_a_model_on_the_command_line(
    made: tuple[family_models.FamilyCase, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    points = lp.load(made[1]).points()
    assert main(["points", str(made[1])]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [point.name for point in points]
    by_name = {point.name: point for point in points}
    assert by_name["x_mid"].formula == "x + attn_norm" and by_name["q"].formula == "q_proj(x)"
    assert by_name["mlp_norm"].formula == "post_feedforward_layernorm.weight * mlp_unit"
    assert next(line for line in lines if line.startswith("q_rms ")).split()[1] == "[T]"
    assert next(line for line in lines if line.startswith("x_mid ")).endswith("x + attn_norm")


@pytest.mark.parametrize("made", ["qwen3-yarn"], indirect=True)
def test_an_absent_point_is_refused_with_the_reason(
    made: tuple[family_models.FamilyCase, Path],
) -> None:
    model = lp.load(made[1])
    with pytest.raises(lp.PointError, match="this model has no 'attn_norm': attn_out has no norm"):
        model.run([1, 2], points=["x", "attn_norm"])
    with pytest.raises(lp.PointError, match="logits have neither scale nor cap"):
        model.run([1, 2], points="logits_raw")
    assert model.run([1], points="model.layers.1.self_attn.q_norm").points == ("q_norm",)
