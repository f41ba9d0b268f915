"""Tensors that no operation uses, and tensors that are missing: what is refused, what is a warning,
what `ignore` passes over, and what the messages say."""

import json
import os
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest

import llamaprobe as lp
from llamaprobe.checkpoint.tensor_names import used_tensors
from llamaprobe.checks.verify import verify_run
from llamaprobe.config import read_config

IDS = [5, 1, 96, 5, 40]
LAYER = "model.layers.1."


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Path]:
    """make(names or {name: array}, **config) -> a folder that has these tensors beside its own."""

    def with_extra(extra: Any, n_shards: int = 1, **keys: Any) -> Path:
        config = models.make_config(**keys)
        if not isinstance(extra, dict):
            extra = {name: np.ones(16, np.float32) for name in extra}
        weights = models.make_weights(config) | extra
        folder = tmp_path / f"m{len(list(tmp_path.iterdir()))}"
        return models.write_checkpoint(folder, config, weights, n_shards=n_shards)

    return with_extra


def load_quietly(folder: Path, **how: Any) -> lp.Model:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return lp.load(folder, **how)


@pytest.mark.parametrize("case", models.cases(), ids=lambda case: case.name)
def test_all_tensors_of_a_llama_are_used(case: models.Case, tmp_path: Path):
    folder, _ = case.make(tmp_path / "m")
    model = load_quietly(folder)
    assert set(used_tensors(model.config)) == set(models.read_checkpoint(folder))
    assert model.unused == () == model.ignore


# ---- refused ----

REFUSED = [
    LAYER + "self_attn.q_proj.bias",
    LAYER + "self_attn.o_proj.bias",
    LAYER + "mlp.gate_proj.bias",
    LAYER + "self_attn.q_norm.weight",
    LAYER + "self_attn.q_proj.weight_scale",
    LAYER + "self_attn.q_proj.lora_A.default.weight",
    LAYER + "self_attn.q_proj.lora_B.weight",
    LAYER + "input_layernorm.bias",
    LAYER + "pre_feedforward_layernorm.weight",
    "model.layers.01.self_attn.q_proj.weight",
    "model.layers.x.weight",
    "model.norm.bias",
    "model.embed_tokens.scale",
    "model.embed_norm.weight",
    "lm_head.bias",
    "lm_head.weight_scale",
    "base_model.model.lm_head.lora_embedding_A.default",
    "model.layers.7.self_attn.q_proj.lora_A.weight",
]


@pytest.mark.parametrize("name", REFUSED)
def test_rejects_by_name_tensors_that_would_change_the_values(make, name: str):
    folder = make([name])
    with pytest.raises(lp.UnsupportedError) as e:
        lp.load(folder)
    message = str(e.value)
    assert message.startswith(f"{folder}: holds 1 tensor that a run does not use") and name in message
    assert "--ignore" in message and message.isprintable() and len(message) < 700
    model = load_quietly(folder, ignore=name)
    assert model.unused == (name,) and model.ignore == (name,)


def test_biases_without_their_flag_name_the_flag(make):
    config = models.make_config(attention_bias=True, mlp_bias=True)
    biases = {n: w for n, w in models.make_weights(config).items() if n.endswith(".bias")}
    folder = make(biases, bias=True)
    with pytest.warns(UserWarning, match="bias"), pytest.raises(lp.UnsupportedError) as e:
        lp.load(folder)
    message = str(e.value)
    assert "holds 21 tensors" in message
    assert "model.layers.*.self_attn.q_proj.bias (3 layers)" in message and "and 1 more" in message
    assert "attention_bias is not true in config.json; mlp_bias is not true" in message


def test_ignored_tensors_do_not_change_the_values(make):
    with_them = load_quietly(make([LAYER + "self_attn.q_norm.weight"]), ignore=["*.q_norm.*"])
    points = [point.name for point in lp.Model.points()]
    assert with_them.run(IDS, points=points).equals(
        lp.load(make([])).run(IDS, points=points)
    )


@pytest.mark.slow
def test_the_values_equal_those_of_transformers_which_drops_them(make):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    folder = make([LAYER + "self_attn.q_proj.bias", "score.weight", "model.layers.3.extra"])
    with pytest.warns(UserWarning, match="2 tensors"):
        model = lp.load(folder, ignore="*.bias")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        expected = theirs(torch.tensor([IDS])).logits[0].numpy()
    logits = model.run(IDS, points="logits")["logits"]
    assert np.abs(logits - expected).max() < 1e-5 * np.abs(expected).max()


# ---- warned of, and let through ----

OTHERS = ["model.layers.3.self_attn.q_proj.weight", "score.weight", "v_head.summary.weight",
          "vision_model.layers.0.x", "medusa_head.0.weight"]


@pytest.mark.parametrize("name", OTHERS)
def test_tensors_outside_of_the_decoder_are_a_warning(make, name: str):
    folder = make([name])
    with pytest.warns(UserWarning, match=re.escape(name)) as printed:
        model = lp.load(folder)
    assert len(printed) == 1 and str(printed[0].message).startswith(f"{folder}: 1 tensor")
    assert printed[0].filename == __file__
    assert model.unused == (name,)
    assert load_quietly(folder, ignore=[name]).unused == (name,)


def test_layers_beyond_those_of_the_config(make):
    deep = models.make_weights(models.make_config(num_hidden_layers=4))
    extra = {name: w for name, w in deep.items() if ".layers.3." in name}
    folder = make(extra)
    with pytest.warns(UserWarning, match=r"num_hidden_layers is 3"):
        model = lp.load(folder)
    assert set(model.unused) == set(extra)
    with pytest.warns(UserWarning, match=r"num_hidden_layers is 3"):  # as config.json has it
        assert lp.load(folder, layers=1).unused == model.unused
    assert load_quietly(folder, ignore="model.layers.3.*").run(IDS)["x"].shape[0] == 3


LEFTOVERS = ["model.layers.0.self_attn.rotary_emb.inv_freq", "model.rotary_emb.inv_freq",
             "model.layers.2.self_attn.rotary_emb.cos_cached", "model.rotary_emb.original_inv_freq"]


def test_buffers_of_old_rotary_embeddings_are_ignored(make):
    assert load_quietly(make(LEFTOVERS)).unused == ()


@pytest.mark.parametrize("n_shards", [1, 3])
def test_later_layers_are_ignored_when_only_the_first_are_opened(make, n_shards: int):
    folder = make([LAYER + "self_attn.q_norm.weight"], n_shards)
    assert load_quietly(folder, layers=1).unused == ()
    with pytest.raises(lp.UnsupportedError, match="q_norm"):
        lp.load(folder, layers=2)


# ---- ignore ----


def test_rejects_a_glob_without_a_match(make):
    folder = make(["score.weight"])
    for glob, printed in {
        "*.q_norm.weight": "matches none of 31 tensors; an unused one is score.weight",
        "model.norm.*": "matches only tensors in use, such as model.norm.weight",
    }.items():
        with pytest.raises(lp.ArgumentError, match=re.escape(f"ignore '{glob}' {printed}")):
            lp.load(folder, ignore=["score.*", glob])
    with pytest.raises(lp.ArgumentError, match="all of them are used"):
        lp.load("demo", ignore="x")


@pytest.mark.parametrize("ignore", [3, None, [3], [""], "", b"x", ["a", None]])
def test_rejects_what_is_not_a_glob(ignore: Any):
    with pytest.raises(lp.ArgumentError, match="ignore is .*glob"):
        lp.load("demo", ignore=ignore)


def test_a_used_tensor_is_kept_although_a_glob_matches_it(make):
    model = load_quietly(make([LAYER + "mlp.up_proj.bias"]), ignore="*")
    assert model.unused == (LAYER + "mlp.up_proj.bias",)
    assert np.isfinite(model.run(IDS, points="logits")["logits"]).all()


def test_a_run_records_it(make, tmp_path: Path):
    names = [LAYER + "self_attn.q_norm.weight", "score.weight"]
    with pytest.warns(UserWarning, match="score"):
        run = lp.load(make(names), ignore="*.q_norm.*").run(IDS)
    printed = {"ignore": ["*.q_norm.*"], "unused_tensors": names}
    assert printed.items() <= run.meta.items()
    run.save(tmp_path / "out")
    assert printed.items() <= json.loads((tmp_path / "out" / "manifest.json").read_text()).items()
    assert printed.items() <= lp.read_run(tmp_path / "out").meta.items()


# ---- the command line ----


@pytest.mark.slow
def test_commands_accept_ignore(make, tmp_path: Path, command, recwarn):
    name = LAYER + "self_attn.q_norm.weight"
    folder, out, ids = make([name]), tmp_path / "out", tmp_path / "ids"
    ids.write_text("5 1 96")
    status, _, stderr = command("run", folder, "--ids", ids)
    assert status == 1 and name in stderr and stderr.count("\n") == 1
    ignore = ["--ignore", "*.q_norm.*"]
    assert command("run", folder, "--ids", ids, "--out", out, *ignore)[0] == 0
    status, stdout, stderr = command("verify", out)  # the run says what it passed over
    assert status == 0, stdout
    assert "ignored, as --ignore or the run says: tensors that match *.q_norm.*" in stderr
    assert command("verify", out, "--model", folder, *ignore)[0] == 0
    assert command("bench", folder, "--tokens", "2", "--repeat", "1", *ignore)[0] == 0
    status, _, stderr = command("run", folder, "--ids", ids, "--ignore", "x")
    assert status == 1 and "ignore 'x' matches none" in stderr


def test_verify_without_what_the_run_ignored(make, tmp_path: Path, command):
    """A model without such a tensor is compared all the same; its weight file differs."""
    lp.load(make(["score.weight"]), ignore="score.*").run(IDS).save(tmp_path / "out")
    status, stdout, stderr = command("verify", tmp_path / "out", "--model", make([]))
    assert status == 1, stdout + stderr
    assert "not the model that the run was made with" in stderr
    assert "weight_files: model.safetensors" in stdout
    assert re.search(r"the same tokens run again +ok", stdout)


@pytest.mark.filterwarnings("ignore")
def test_verify_with_other_globs_than_those_of_the_run(make, tmp_path: Path, command):
    """Whichever globs let a model open, a run reports the same unused tensors."""
    used = [LAYER + "self_attn.rotary_emb.inv_freq", LAYER + "mlp.up_proj.bias", "score.weight"]
    folder, refused = make(used), used[1]
    for i, ignore in enumerate([[refused], ["*"], [refused, "score.*"], ["score.*", refused]]):
        model = lp.load(folder, ignore=ignore)
        assert model.unused == tuple(used[1:])
        model.run(IDS).save(tmp_path / f"{i}")
        for how in ([], ["--ignore", refused], ["--ignore", "*"]):
            printed = command("verify", tmp_path / f"{i}", "--model", folder, *how)
            assert printed[0] == 0, printed


def test_a_run_of_version_0_saved_again_knows_no_unused_tensors(make, tmp_path):
    model = load_quietly(make(["lm_head.bias", "score.weight"]), ignore="*")
    model.run(IDS).save(tmp_path / "old")
    manifest = json.loads((tmp_path / "old/manifest.json").read_text())
    for path in (tmp_path / "old").glob("meta_layer*.json"):
        meta = json.loads(path.read_text())
        del meta["ignore"], meta["unused_tensors"]
        path.write_text(json.dumps(meta))
    for key in ("format_version", "arithmetic_version", "ignore", "unused_tensors"):
        del manifest[key]
    (tmp_path / "old/manifest.json").write_text(json.dumps(manifest))
    lp.read_run(tmp_path / "old").save(tmp_path / "new")
    checks = list(verify_run(tmp_path / "new", model))
    assert [check.fault for check in checks if check.fault] == []
    assert any("not compared: arithmetic version 0" in check.note for check in checks)


def test_verify_adds_no_bias_that_the_run_ignored(make, tmp_path: Path):
    shapes = models.weight_shapes(models.make_config(attention_bias=True, mlp_bias=True))
    biases = {n: np.ones(shape, np.float32) for n, shape in shapes.items() if n.endswith("bias")}
    model = lp.load(make(biases), ignore="*bias")
    model.run(IDS, points="all").save(tmp_path / "out")
    assert [check.fault for check in verify_run(tmp_path / "out", model) if check.fault] == []


@pytest.mark.filterwarnings("ignore")
def test_verify_of_a_run_that_opened_all_layers_by_number(tmp_path: Path, command):
    """layers= leaves out the shard of a layer beyond num_hidden_layers, although it is all of
    them."""
    config = models.make_config(num_hidden_layers=2)
    weights = models.make_weights(config)
    beyond = {"model.layers.2.input_layernorm.weight": np.ones(config["hidden_size"], np.float32)}
    folder = models.write_checkpoint(tmp_path / "m", config, weights)
    os.rename(folder / "model.safetensors", folder / "a.safetensors")
    (folder / "b.safetensors").write_bytes(models.safetensors_bytes(beyond, "F32"))
    where = dict.fromkeys(weights, "a.safetensors") | dict.fromkeys(beyond, "b.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    for layers in (None, 1, 2):
        lp.load(folder, layers=layers).run(IDS).save(tmp_path / f"{layers}")
        printed = command("verify", tmp_path / f"{layers}")
        assert printed[0] == 0, printed
        assert command("verify", tmp_path / f"{layers}", "--model", folder)[0] == 0


def test_inspect_lists_them(make, command):
    names = [LAYER + "mlp.up_proj.bias", "score.weight"]
    status, stdout, _ = command("inspect", make(names), "--json")
    printed = json.loads(stdout)
    assert status == 0 and printed["unused"] == names and printed["config"]["n_layers"] == 3
    assert "mlp_bias is not true" in printed["cannot_run"]
    status, stdout, _ = command("inspect", make(names))
    assert "cannot be run: holds 1 tensor" in stdout and "  score.weight\n" in stdout
    printed = json.loads(command("inspect", "demo", "--json")[1])
    assert printed["unused"] == [] and "cannot_run" not in printed


# ---- what a file has instead ----


def renamed(spell: Callable[[str], str]) -> Callable[[dict], dict]:
    return lambda weights: {spell(name): values for name, values in weights.items()}


def fused(weights: dict) -> dict:
    """As Phi-3 has it."""
    kept = {n: w for n, w in weights.items() if not re.search("self_attn.[qkv]_proj", n)}
    return kept | {f"model.layers.{i}.self_attn.qkv_proj.weight": np.ones((64, 48)) for i in range(3)}


META = {"model.embed_tokens": "tok_embeddings", "model.norm": "norm", "lm_head": "output",
        "model.layers.": "layers.", "self_attn.q_proj": "attention.wq"}


def as_meta(name: str) -> str:
    for ours, theirs in META.items():
        name = name.replace(ours, theirs)
    return name


EMBED = "model.embed_tokens.weight"
INSTEAD: dict[str, tuple[Callable[[dict], dict], str]] = {
    "_orig_mod.": (renamed("_orig_mod.{}".format), f"the file has _orig_mod.{EMBED}, saved from"),
    "base_model.model.": (renamed("base_model.model.{}".format),
                          f"the file has base_model.model.{EMBED}, .*merge_and_unload"),
    "module.": (renamed("module.{}".format), f"the file has module.{EMBED}"),
    "model.language_model.": (
        renamed(lambda n: n.replace("model.", "model.language_model.", 1)),
        "the file has model.language_model.embed_tokens.weight",
    ),
    "no model.": (renamed(lambda n: n.removeprefix("model.")), "the file has embed_tokens.weight;"),
    "Meta": (renamed(as_meta), "the file has tok_embeddings.weight: Meta's names"),
    "fused": (fused, r"layers.0.self_attn.q_proj.weight is missing; the file has"
                     r" model.layers.0.self_attn.qkv_proj.weight: fused"),
    "other words": (
        lambda w: {n.replace(".weight", ".qweight") if "up_proj" in n else n: v
                   for n, v in w.items()},
        "up_proj.weight is missing; the file has model.layers.0.mlp.up_proj.qweight",
    ),
    "a layer less": (
        lambda w: {n: v for n, v in w.items() if ".layers.2." not in n},
        "layers.2.input_layernorm.weight is missing; the file has 2 layers, the last is 1",
    ),
    "no head": (
        lambda w: {n: v for n, v in w.items() if n != "lm_head.weight"},
        "lm_head.weight is missing; it would be the embedding if tie_word_embeddings were true",
    ),
    "one of a layer": (
        lambda w: {n: v for n, v in w.items() if n != LAYER + "self_attn.k_proj.weight"},
        r"layers.1.self_attn.k_proj.weight is missing; the file has model.layers",
    ),
    "another model": (lambda w: {"transformer.wte.weight": w[EMBED]}, "has transformer.wte.weight"),
    "nothing": (lambda w: {}, "the file has no tensor"),
}


@pytest.mark.parametrize("case", INSTEAD)
def test_the_error_for_a_missing_tensor_names_those_of_the_file(tmp_path: Path, case: str, command):
    change, printed = INSTEAD[case]
    config = models.make_config()
    folder = models.write_checkpoint(tmp_path / "m", config, change(models.make_weights(config)))
    with pytest.raises(lp.FormatError, match=printed) as e:
        lp.load(folder)
    message = str(e.value)
    assert message.startswith(f"{folder}: model.safetensors: tensor ") and message.isprintable()
    assert json.loads(command("inspect", folder, "--json")[1])["cannot_run"] in message


@pytest.mark.slow
def test_a_file_of_many_other_names_is_refused_at_once(tmp_path: Path):
    names = {f"model.other.{i}.weight": np.ones(1, np.float32) for i in range(50_000)}
    folder = models.write_checkpoint(tmp_path / "m", models.make_config(), names)
    with pytest.raises(lp.FormatError, match="embed_tokens.weight is missing; the file has model.ot"):
        lp.load(folder)
    assert read_config(folder).n_layers == 3


def test_shards_without_their_index(make):
    folder = make([], n_shards=3)
    (folder / "model.safetensors.index.json").unlink()
    with pytest.raises(lp.FileError) as e:
        lp.load(folder)
    assert str(e.value) == (
        f"{folder}: holds 3 shards, model-00001-of-00003.safetensors,"
        " model-00002-of-00003.safetensors, model-00003-of-00003.safetensors, but"
        " model.safetensors.index.json is missing; it comes with them, download it too"
    )


def test_an_adapter_is_not_a_model(make):
    folder = make([])
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    with pytest.raises(lp.FileError, match="adapter_model.safetensors, which is not a model; merge it"):
        lp.load(folder)


def test_warns_of_an_adapter_beside_the_weights(make):
    folder = make([])
    (folder / "adapter_config.json").write_text("{}")
    with pytest.warns(UserWarning, match="adapter_config.json .* is not applied") as printed:
        lp.load(folder)
    assert len(printed) == 1 and printed[0].filename == __file__


@pytest.mark.parametrize("n_shards", [1, 2])
def test_a_web_page_in_place_of_weights_is_named(make, n_shards: int):
    folder = make([], n_shards=n_shards)
    file = sorted(folder.glob("*.safetensors"))[-1]
    file.write_text("<!DOCTYPE html><html>" + "x" * 5000)
    with pytest.raises(lp.FormatError) as e:
        lp.load(folder)
    assert str(e.value) == f"{folder}: {file.name}: is a web page and not the file itself; download the file again"
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64)
    with pytest.raises(lp.FormatError, match="is a Git LFS pointer of 118 bytes, not the weights"):
        lp.load(folder)
