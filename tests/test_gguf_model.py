"""A model in GGUF runs as the safetensors that hold its values: the same bits at every point."""

import json
import os
import pickle
import re
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import gguf_maker
import models
import numpy as np
import pytest
from gguf_cases import GgufCase, gguf_cases, llama3_case

import llamaprobe as lp
from llamaprobe import _core
from llamaprobe.checkpoint import layouts
from llamaprobe.checkpoint.folder import open_checkpoint
from llamaprobe.checkpoint.opening import Opening
from llamaprobe.data.model_place import model_of
from llamaprobe.data.plan import open_plan
from llamaprobe.model import Model

CASES = {case.name: case for case in (*gguf_cases(), llama3_case())}
IDS = models.make_token_ids({"vocab_size": 97}, 20)
FLOATS = ("F32", "BF16", "F16")
BLOCKS = {"hidden_size": 256, "intermediate_size": 256, "head_dim": 64, "num_hidden_layers": 2}


def stored_as(kind: str, values: np.ndarray, seed: int) -> tuple[gguf_maker.Stored, np.ndarray]:
    """A matrix of `kind`, of these values or at random, and the values that it then has."""
    if kind in FLOATS:
        stored = gguf_maker.stored(values, kind)
    else:
        stored = gguf_maker.random_blocks(values.shape, kind, seed)
    dtype = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}.get(kind, "u1")
    words = np.frombuffer(stored.data, dtype).reshape(values.shape[0], -1)
    parts = {"codes": layouts.Part(kind, words)}
    return stored, layouts.Stored(kind.lower(), values.shape, parts).values()


def make(case: GgufCase, folder: Path, kinds: tuple[str, ...], **more: Any) -> Path:
    """m.gguf, whose matrices are of these kinds in turn, and hf, a folder with their values."""
    weights, keys = case.weights(**more), case.hub_keys(**more)
    found: list[np.ndarray] = []

    def matrix(name: str, values: np.ndarray) -> gguf_maker.Stored:
        stored, read = stored_as(kinds[len(found) % len(kinds)], values, len(found))
        found.append(read)
        return stored

    path = case.write(folder / "m.gguf", weights, matrix, **more)
    matrices = iter(found)
    for name, values in weights.items():
        if values.ndim == 2:
            read = next(matrices)
            if case.architecture in gguf_maker.TURNED and name.endswith(
                ("q_proj.weight", "k_proj.weight")
            ):
                read = gguf_maker.turn_back(read, keys["head_dim"])
            weights[name] = read
    models.write_checkpoint(folder / "hf", keys, weights, "F32")
    return path


def twin(model: Model, folder: Path) -> Model:
    """The folder, with the config of the GGUF."""
    opening = Opening("hf", folder, True, None, None, True, None, ())
    return Model(model.config, open_checkpoint(folder), opening, ())


def equal(model: Model, other: Model, ids: list[int] = IDS, **how: Any) -> None:
    run, again = (each.run(ids, points="all", **how) for each in (model, other))
    assert run.points == again.points
    for point in run.points:
        assert run[point].tobytes() == again[point].tobytes(), point
    assert np.isfinite(run["logits"]).all()


@pytest.mark.parametrize("name", CASES)
def test_floats(name: str, tmp_path: Path) -> None:
    """The same model as a GGUF and as a folder of its own config.json."""
    for kind in ("F32", "BF16"):
        model = lp.load(make(CASES[name], tmp_path, (kind,)))
        if name == "llama3":
            other = lp.load(tmp_path / "hf")
            assert np.allclose(model.run(IDS)["x"], other.run(IDS)["x"], rtol=1e-3, atol=1e-5)
        else:
            equal(model, lp.load(tmp_path / "hf"), rope_length=None)
        shutil.rmtree(tmp_path / "hf")


@pytest.mark.parametrize("name", CASES)
def test_blocks(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    model = lp.load(make(case, tmp_path, ("Q8_0", "Q4_0", "Q5_1", "F16")))
    hf = tmp_path / "hf"
    if not case.architecture.startswith("gemma"):  # else gains are of other files
        equal(model, twin(model, hf))
    if name != "llama3":
        equal(model, lp.load(hf))


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=[] if kind in ("Q8_0", "Q4_K", "Q6_K") else pytest.mark.slow)
        for kind in gguf_maker._BLOCKS
        if kind != "IQ2_XXS"
    ],
)
def test_every_type(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    more = BLOCKS if kind.endswith(("_K", "_XS")) else {"num_hidden_layers": 2}
    model = lp.load(make(CASES["llama"], tmp_path, (kind,), **more))
    other = lp.load(tmp_path / "hf")
    for variant, can_run in _core.kernels():
        if can_run:
            monkeypatch.setenv("LLAMAPROBE_KERNELS", variant)
            for n_threads in (1, 3):
                equal(model, other, threads=n_threads)
                equal(model, other, IDS[:1], threads=n_threads)


def test_names(tmp_path: Path) -> None:
    model = lp.load(make(CASES["llama"], tmp_path, ("Q8_0",)))
    checkpoint = model._checkpoint
    assert checkpoint is not None and checkpoint.format == "gguf"
    assert checkpoint.names.keys() == lp.load(tmp_path / "hf").weights.keys()
    assert checkpoint.aliases["model.norm.weight"] == "output_norm.weight"
    packed = checkpoint.packed["model.layers.0.self_attn.k_proj.weight"]
    assert packed.part_names["codes"] == "blk.0.attn_k.weight" and packed.options == {"turned": 16}
    assert checkpoint.packed["model.layers.0.mlp.up_proj.weight"].options == {}
    assert model.unused == () and model.quantization.kinds == {"q8_0": 30, "f32": 9}
    assert model.quantization.format == "gguf"


def test_weights_as_bf16(tmp_path: Path) -> None:
    path = make(CASES["llama"], tmp_path, ("Q4_0",))
    weights = models.read_checkpoint(tmp_path / "hf")
    for name, values in weights.items():
        if values.ndim == 2:
            weights[name] = models.from_bits(models.to_bits(values, "BF16"), "BF16").reshape(
                values.shape
            )
    models.write_checkpoint(tmp_path / "hf", CASES["llama"].hub_keys(), weights, "F32")
    equal(lp.load(path, weights_as="bf16"), lp.load(tmp_path / "hf"))


def test_floats_do_not_depend_on_weights_as(tmp_path: Path) -> None:
    """Nor do those whose rows are in turned order, which are packed."""
    case = CASES["llama"]
    weights = {name: values * np.float32(1.001) for name, values in case.weights().items()}
    path = case.write(tmp_path / "m.gguf", weights, lambda _, v: gguf_maker.stored(v, "F32"))
    equal(lp.load(path, weights_as="bf16"), lp.load(path))


def test_first_layers(tmp_path: Path) -> None:
    path = make(CASES["llama"], tmp_path, ("Q8_0",))
    model = lp.load(path, layers=2)
    equal(model, lp.load(tmp_path / "hf", layers=2))
    assert model.quantization is not None
    assert model.quantization.kinds == {"q8_0": 16, "f32": 5}


def test_in_memory(tmp_path: Path) -> None:
    path = make(CASES["llama"], tmp_path, ("Q8_0",))
    model = lp.load(path, mmap=False)
    path.write_bytes(b"")
    equal(model, lp.load(tmp_path / "hf"))


def test_pickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found again from another directory, by its file, and only if it is unchanged."""
    path = make(CASES["gemma3"], tmp_path / "a", ("Q8_0",))
    monkeypatch.chdir(tmp_path)
    model = lp.load("a/m.gguf")
    data = pickle.dumps(model)
    shutil.copy(path, tmp_path / "a" / "another.gguf")
    monkeypatch.chdir("/")
    again = pickle.loads(data)
    assert again.run(IDS).equals(model.run(IDS))
    assert again.config.gain_offset == 0 and again._opening.file == "m.gguf"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(lp.FileChangedError, match="m.gguf"):
        pickle.loads(data)


def test_a_saved_run_names_its_file(tmp_path: Path, command: Any) -> None:
    make(CASES["gemma3"], tmp_path, ("Q8_0",))
    (tmp_path / "m.gguf").rename(tmp_path / "hf" / "m-Q8_0.gguf")
    run = lp.load(tmp_path / "hf", file="*Q8_0*").run(IDS, points="all")
    assert run.meta["model_file"] == "m-Q8_0.gguf"
    run.save(tmp_path / "run", format="npy")
    assert lp.read_run(tmp_path / "run").equals(run)
    code, out, err = command("verify", tmp_path / "run")
    assert code == 0, out + err
    assert f"the model is the one that the run names, {tmp_path / 'hf' / 'm-Q8_0.gguf'}" in err
    assert repr(run).startswith(f"<Run of {tmp_path / 'hf' / 'm-Q8_0.gguf'}: ")


def test_a_harvest_finds_its_file_among_others_elsewhere(tmp_path: Path) -> None:
    """Where the plan was made, and in another folder that holds several models."""
    folders = tmp_path / "one", tmp_path / "two"
    for seed, name in enumerate(("m.gguf", "n.gguf")):
        make(CASES["llama"], tmp_path, ("Q8_0", "Q4_0")[seed:])
        for folder in folders:
            folder.mkdir(exist_ok=True)
            shutil.copy(tmp_path / "m.gguf", folder / name)
    model = lp.load(folders[0], file="m.gguf", weights_as="bf16")
    lp.plan_harvest(model, [IDS[:4]], tmp_path / "plan", points=("x",))
    plan = open_plan(str(tmp_path / "plan"))
    for source in (None, str(folders[1]), str(folders[1] / "m.gguf")):
        assert model_of(plan, source).run(IDS).equals(model.run(IDS)), source
    with pytest.raises(lp.ArgumentError, match="the weights are not those of"):
        model_of(plan, str(folders[1] / "n.gguf"))


def test_divisors_are_recorded(tmp_path: Path, command: Any) -> None:
    run = lp.load(make(CASES["llama3"], tmp_path, ("Q8_0",))).run(IDS, points="all")
    factors = CASES["llama3"].vectors["rope_freqs.weight"]
    assert np.array_equal(np.float32(run.meta["rope_scaling"]["rope_freqs"]), factors)
    run.save(tmp_path / "run", format="npy")
    code, out, err = command("verify", tmp_path / "run")
    assert code == 0, out + err
    (tmp_path / "m.gguf").unlink()
    code, out, err = command("verify", tmp_path / "run")
    assert code == 3 and "wrong" not in out and "inv_freq" not in out + err, out + err


# ---- files ----


@pytest.mark.slow
def test_commands_choose_a_file(tmp_path: Path, command: Any) -> None:
    for name, changes in (("a-Q8_0", {}), ("b-Q8_0", {"hidden_size": 128, "head_dim": 32})):
        make(CASES["llama"], tmp_path, ("Q8_0",), **changes)
        (tmp_path / "m.gguf").rename(tmp_path / f"{name}.gguf")
    (tmp_path / "ids").write_text("1 2 3")
    for words in (
        ("points", tmp_path, "--json"),
        ("run", tmp_path, "--ids", tmp_path / "ids", "--json"),
        ("bench", tmp_path, "--tokens", "1", "--json"),
    ):
        found = []
        for glob in ("a*", "b*"):
            code, out, err = command(*words, "--file", glob)
            assert code == 0, err
            found.append(json.loads(out))
        if words[0] == "points":
            assert [entries[0]["shape"] for entries in found] == [["T", 64], ["T", 128]]
        else:
            wanted = [str(tmp_path / f"{name}-Q8_0.gguf") for name in "ab"]
            named = [one[0] if isinstance(one, list) else one for one in found]
            assert [one["model"] for one in named] == wanted
    code, _, err = command("points", "--file", "a*")
    assert code == 2 and "--file is for MODEL" in err


def test_a_folder_and_its_files(tmp_path: Path) -> None:
    case = CASES["qwen2"]
    make(case, tmp_path, ("Q8_0",))
    folder = tmp_path / "models"
    folder.mkdir()
    shutil.copy(tmp_path / "m.gguf", folder / "m-Q8_0.gguf")
    assert lp.load(folder).path == folder
    shutil.copy(tmp_path / "m.gguf", folder / "m-Q6_K.gguf")
    with pytest.raises(lp.ArgumentError, match="holds 2 models in GGUF: m-Q6_K.gguf, m-Q8_0.gguf"):
        lp.load(folder)
    with pytest.raises(lp.ArgumentError, match="'[*]Q4[*]' matches none of the models in GGUF"):
        lp.load(folder, file="*Q4*")
    assert lp.load(folder, file="*Q8*")._opening.file == "m-Q8_0.gguf"
    for file in ("m-Q8_0.gguf", "*Q8*"):
        assert lp.load(folder / "m-Q8_0.gguf", file=file).path == folder
    with pytest.raises(lp.ArgumentError, match="give its folder to choose another"):
        lp.load(folder / "m-Q8_0.gguf", file="*Q6*")
    for wrong in ("", 3):
        with pytest.raises(lp.ArgumentError, match="name of a .gguf file or a glob"):
            lp.load(folder, file=wrong)  # type: ignore[arg-type]


def test_safetensors_win_unless_a_file_is_named(tmp_path: Path) -> None:
    make(CASES["qwen2"], tmp_path, ("Q8_0",))
    shutil.copy(tmp_path / "m.gguf", tmp_path / "hf" / "m.gguf")
    assert lp.load(tmp_path / "hf").quantization is None
    assert lp.load(tmp_path / "hf", file="m.gguf").quantization is not None
    assert lp.load(tmp_path / "hf", file="*").quantization is not None


def test_a_missing_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(lp.FileError, match="^models/m.gguf: no such file$"):
        lp.load("models/m.gguf")
    url = "https://huggingface.co/a/b/resolve/main/m.gguf"
    for name, way_out in (
        (url, "give a/b with file=m.gguf"),
        ("a/b/c/m.gguf", "of a repo give a/b with file=c/m.gguf"),
        ("a/b:Q4_K_M", "give a/b with file=*Q4_K_M*"),
    ):
        with pytest.raises(lp.FileMissingError, match=re.escape(f"; {way_out} (--file)")):
            lp.load(name)
    (tmp_path / "sha256-0").write_bytes(b"GGUF")
    for use in (lp.load, partial(lp.export_weights, out="w")):
        with pytest.raises(lp.ArgumentError, match="ln -s sha256-0 model.gguf"):
            use("sha256-0")
    (tmp_path / "link.gguf").symlink_to("nowhere")
    with pytest.raises(lp.FileMissingError, match="link.gguf: is a link that leads to no file"):
        lp.load("link.gguf")
    os.mkfifo("pipe.gguf")
    with pytest.raises(lp.FileError, match="pipe.gguf: is not a regular file"):
        lp.load("pipe.gguf")


def split(
    path: Path, case: GgufCase, changes: dict[int, dict[str, Any]] | None = None
) -> list[Path]:
    """m-0000?-of-00003.gguf in place of m.gguf; `changes` of the keys of a part."""
    weights = case.weights()
    keys = case.hub_keys()
    tensors = gguf_maker.model_tensors(
        case.architecture, weights, keys["head_dim"], lambda _, v: gguf_maker.stored(v, "F32")
    )
    names, paths = list(tensors), []
    for i in range(3):
        parts = {"split.no": ("u16", i), "split.count": ("u16", 3)}
        parts["split.tensors.count"] = ("i32", len(names))
        metadata = (
            gguf_maker.model_metadata(case.architecture, keys, **case.metadata) if i == 0 else {}
        )
        held = {name: tensors[name] for name in names[i::3]}
        metadata |= parts | (changes or {}).get(i, {})
        paths.append(path.with_name(f"m-{i + 1:05d}-of-00003.gguf"))
        gguf_maker.write_gguf(paths[-1], metadata, held)
    return paths


def test_a_split(tmp_path: Path) -> None:
    case = CASES["llama"]
    parts = split(tmp_path / "m.gguf", case)
    models.write_checkpoint(tmp_path / "hf", case.hub_keys(), case.weights(), "F32")
    other = lp.load(tmp_path / "hf")
    for part in parts:
        model = lp.load(part)
        equal(model, other)
        assert [Path(path) for path, *_ in model.origin.weight_files] == parts
    equal(lp.load(tmp_path), other)
    equal(pickle.loads(pickle.dumps(lp.load(parts[1]))), other)
    parts[2].unlink()
    with pytest.raises(lp.FileError, match="m-00003-of-00003.gguf.*one of 3 parts of a split"):
        lp.load(parts[0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({1: {"split.no": ("u16", 2)}}, "m-00002-of-00003.gguf: split.no is 2, but it must be 1"),
        ({2: {"split.count": ("u16", 4)}}, "m-00003-of-00003.gguf: split.count is 4"),
        ({0: {"split.tensors.count": ("i32", 5)}}, "split.tensors.count is 5, but it must be 39"),
    ],
)
def test_parts_of_other_models(changes: Any, message: str, tmp_path: Path) -> None:
    split(tmp_path / "m.gguf", CASES["llama"], changes)
    with pytest.raises(lp.FormatError, match=message):
        lp.load(tmp_path / "m-00001-of-00003.gguf")


def test_a_part_under_another_name(tmp_path: Path) -> None:
    part = split(tmp_path / "m.gguf", CASES["llama"])[0].rename(tmp_path / "part.gguf")
    with pytest.raises(lp.FormatError, match="must end in -00001-of-00003.gguf"):
        lp.load(part)


# ---- what does not run ----


def test_a_type_that_does_not_run(tmp_path: Path) -> None:
    case = CASES["llama"]
    kinds = iter(["Q8_0", *["IQ2_XXS"] * 100])
    case.write(
        tmp_path / "m.gguf",
        case.weights(**BLOCKS),
        lambda _, values: gguf_maker.random_blocks(values.shape, next(kinds), 0),
        **BLOCKS,
    )
    with pytest.raises(
        lp.UnsupportedError, match="m.gguf: tensor output.weight is IQ2_XXS, which cannot"
    ):
        lp.load(tmp_path / "m.gguf")


@pytest.mark.parametrize(
    ("name", "shape", "error", "message"),
    [
        ("blk.0.attn_q.bias", (64,), lp.UnsupportedError, "only a matrix can be permuted for RoPE"),
        (
            "blk.0.ffn_gate_inp.weight",
            (4, 64),
            lp.UnsupportedError,
            "m.gguf: holds .* so its metadata describe another model: model.layers.0.ffn_gate_inp",
        ),
        (
            "blk.0.attn_q_norm.weight",
            (16,),
            lp.UnsupportedError,
            "layers.0.self_attn.q_norm.weight",
        ),
        ("blk.0.attn_q.scale", (1,), lp.UnsupportedError, "layers.0.self_attn.q_proj.scale"),
        ("blk.0.ffn_up.input_scale", (1,), lp.UnsupportedError, "layers.0.mlp.up_proj.input_scale"),
        ("blk.0.ssm_a", (16,), lp.UnsupportedError, "model.layers.0.ssm_a"),
    ],
)
def test_a_tensor_of_another_model(
    name: str, shape: tuple[int, ...], error: type[Exception], message: str, tmp_path: Path
) -> None:
    case = CASES["qwen2" if "norm" in name else "llama"]
    values = gguf_maker.stored(np.ones(shape), "F32")
    tensors = gguf_maker.model_tensors(
        case.architecture, case.weights(), 16, lambda _, v: gguf_maker.stored(v, "F32")
    )
    metadata = gguf_maker.model_metadata(case.architecture, case.hub_keys(), **case.metadata)
    gguf_maker.write_gguf(tmp_path / "m.gguf", metadata, tensors | {name: values})
    with pytest.raises(error, match=message) as caught:
        lp.load(tmp_path / "m.gguf")
    assert "permuted" in message or "so its metadata describe another model" in str(caught.value)


def test_metadata_of_other_sizes(tmp_path: Path) -> None:
    case = CASES["llama"]
    tensors = gguf_maker.model_tensors(
        "llama", case.weights(), 16, lambda _, v: gguf_maker.stored(v, "F32")
    )
    metadata = gguf_maker.model_metadata("llama", case.hub_keys(intermediate_size=80))
    gguf_maker.write_gguf(tmp_path / "m.gguf", metadata, tensors)
    with pytest.raises(lp.FormatError, match="80"):
        lp.load(tmp_path / "m.gguf")
    del tensors["blk.3.ffn_up.weight"]
    metadata = gguf_maker.model_metadata("llama", case.hub_keys())
    gguf_maker.write_gguf(tmp_path / "m.gguf", metadata, tensors)
    with pytest.raises(lp.FormatError, match="model.layers.3.mlp.up_proj.weight is missing"):
        lp.load(tmp_path / "m.gguf")


@pytest.mark.parametrize("words", [("inspect",), ("points",), ("weights", "--list")])
def test_commands_that_only_look(words: tuple[str, ...], tmp_path: Path, command: Any) -> None:
    path = make(CASES["gemma3"], tmp_path / "made", ("Q8_0",))
    for name in ("a-Q8_0.gguf", "b-Q6_K.gguf"):
        (tmp_path / name).write_bytes(path.read_bytes())
    name, *more = words
    code, out, _ = command(name, path, *more)
    assert code == 0
    code, again, _ = command(name, tmp_path, "--file", "*Q8_0*", *more)
    assert code == 0 and len(again.splitlines()) == len(out.splitlines())
    code, _, err = command(name, tmp_path, *more)
    assert code != 0 and "holds 2 models in GGUF: a-Q8_0.gguf, b-Q6_K.gguf" in err


def test_a_harvest_finds_its_file(tmp_path: Path) -> None:
    path = make(CASES["gemma3"], tmp_path / "made", ("Q8_0",))
    for name in ("a-Q8_0.gguf", "b-Q6_K.gguf"):
        (tmp_path / name).write_bytes(path.read_bytes())
    model = lp.load(tmp_path, file="*Q6_K*")
    plan = lp.plan_harvest(model, [[1, 2, 3], [4, 5]], tmp_path / "out", points=["x:1"])
    assert model_of(plan)._opening.file == "b-Q6_K.gguf"
