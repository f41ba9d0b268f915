"""The file of statistics: read by others, damaged, altered by strangers; exports; the command line."""

import hashlib
import json
import random
import re
import struct

import numpy as np
import pytest

import llamaprobe as lp

ALL = ("range", "moments", "histogram", "gram", "top:5", "firing:0.25")
DOCS = [[3, 5, 5, 7, 200], [5, 3], list(range(7, 60))]


@pytest.fixture(scope="module")
def model():
    return lp.load("demo", threads=1)


@pytest.fixture(scope="module")
def stats(model):
    return lp.collect(model, DOCS, stats=ALL, points=("x:1", "q:2", "final_norm"), exact=(0.5,))


@pytest.fixture(scope="module")
def saved(stats, tmp_path_factory):
    path = tmp_path_factory.mktemp("stats") / "stats.safetensors"
    assert stats.save(path) == stats.sha256
    return path


def test_a_file_reads_back(stats, saved):
    again = lp.read_stats(saved)
    assert again.sha256 == stats.sha256 and again.facts == json.loads(json.dumps(stats.facts))
    assert repr(again) == repr(stats) and again.targets == stats.targets
    assert again["q", 2].shape == (stats["q", 2].shape) and len(again["q", 2].shape) == 2
    assert again["x", 1].top(3)[0].context.tolist() == stats["x", 1].top(3)[0].context.tolist()
    assert (again["x", 1].quantile(0.5)[0] == stats["x", 1].quantile(0.5)[0]).all()


def test_numpy_alone_reads_it(model, saved):
    """As docs/statistics.md describes the format."""
    data = saved.read_bytes()
    n = struct.unpack("<Q", data[:8])[0]
    head = json.loads(data[8 : 8 + n])
    facts = json.loads(head["__metadata__"]["statistics"])
    kinds = {"I64": "<i8", "I32": "<i4", "F32": "<f4"}

    def tensor(name):
        start, end = head[name]["data_offsets"]
        return np.frombuffer(data[8 + n + start : 8 + n + end], kinds[head[name]["dtype"]]).reshape(
            head[name]["shape"]
        )

    rest = facts["groups"].index("rest")
    rows = np.concatenate([model.run(ids)["x", 1][1:] for ids in DOCS])
    limbs = tensor("x.1/sum_2")[rest, 5]
    total = sum(int(limb) % 2**64 << 64 * i for i, limb in enumerate(limbs.tolist()))
    exact = sum(
        int(np.float64(v).view(np.uint64) > 0) and float(v) ** 2 for v in rows[:, 5].tolist()
    )
    assert total / 2**298 == pytest.approx(exact, rel=1e-14)
    assert (tensor("x.1/range")[rest, :, 1] == rows.max(0)).all()
    first, bucket = tensor("x.1/first"), tensor("x.1/bucket")
    row = rest * 128 + 5
    buckets = np.unique(rows[:, 5].view(np.uint32) >> 19)
    assert bucket[first[row] : first[row + 1]].tolist() == buckets.tolist()


def test_safetensors_reads_it(saved, stats):
    safetensors = pytest.importorskip("safetensors.numpy")
    arrays = safetensors.load_file(saved)
    assert set(arrays) == set(stats.arrays())
    assert all((arrays[name] == array).all() for name, array in stats.arrays().items())


def test_it_is_written_whole_or_not_at_all(stats, tmp_path, monkeypatch):
    path = tmp_path / "s"
    path.write_bytes(b"before")
    monkeypatch.setattr(
        "os.fsync", lambda descriptor: (_ for _ in ()).throw(OSError(5, "I/O error"))
    )
    with pytest.raises(lp.FileError, match="I/O error"):
        stats.save(path, force=True)
    assert path.read_bytes() == b"before" and list(tmp_path.iterdir()) == [path]


# ---- damaged and altered ----


def attempt(path):
    """Everything of a file; the error, or None."""
    try:
        stats = lp.read_stats(path)
        for target in stats:
            channels = stats[target].all
            channels.mean, channels.kurtosis(), channels.std(), channels.skew(), channels.quantile(0.3), channels.absmax
            for row in range(channels.shape[0]):
                channels.top(row if len(channels.shape) == 1 else (row, 0))
            channels.gram()
        assert stats.sha256 and repr(stats)
    except lp.Error as error:
        assert str(error) and "\n" not in str(error)
        return error
    return None


@pytest.mark.parametrize("seed", range(30))
def test_truncated_and_flipped_bytes(saved, tmp_path, seed):
    rng = random.Random(seed)
    data = bytearray(saved.read_bytes())
    for _ in range(3):
        data[rng.randrange(len(data) if seed % 2 else 6000)] ^= 1 << rng.randrange(8)
    path = tmp_path / "s.safetensors"
    path.write_bytes(data if seed % 3 else data[: rng.randrange(len(data))])
    attempt(path)


@pytest.mark.parametrize("name", ["x.1/sum_2", "q.2/range"])
def test_a_flipped_bit_that_leaves_a_possible_value(saved, tmp_path, name):
    data = bytearray(saved.read_bytes())
    n = struct.unpack("<Q", data[:8])[0]
    data[8 + n + json.loads(data[8 : 8 + n])[name]["data_offsets"][0]] ^= 1
    path = tmp_path / "s"
    path.write_bytes(data)
    with pytest.raises(lp.FormatError, match="do not have the sha256 in its header"):
        lp.read_stats(path)


def rewritten(path, saved, change_facts=None, change=None):
    """The file with other facts or tensors."""
    data = saved.read_bytes()
    n = struct.unpack("<Q", data[:8])[0]
    head = json.loads(data[8 : 8 + n])
    facts = json.loads(head["__metadata__"]["statistics"])
    body = bytearray(data[8 + n :])
    if change_facts:
        change_facts(facts)
    if change:
        name, edit = change
        start, end = head[name]["data_offsets"]
        kind = {"I64": "<i8", "I32": "<i4", "F32": "<f4"}[head[name]["dtype"]]
        array = np.frombuffer(bytes(body[start:end]), kind).copy().reshape(head[name]["shape"])
        edit(array)
        body[start:end] = array.tobytes()
    text = json.dumps(facts)
    sha256 = hashlib.sha256(text.encode() + body).hexdigest()  # so that the other checks are tried
    head["__metadata__"] = {"statistics": text, "sha256": sha256}
    text = json.dumps(head).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)
    return path


VALUES = (None, True, 0, -1, 5, 1 << 62, 1.5, "", "x", "../x", [], [1], [[3, 1]], {}, {"a": 1})


def places(value, way=()):
    if way:
        yield way
    if isinstance(value, (dict, list)):
        for key, inner in list(value.items() if isinstance(value, dict) else enumerate(value)):
            yield from places(inner, (*way, key))


def test_facts_with_other_values(saved, stats, tmp_path):
    rng, refused, n = random.Random(3), 0, 0
    for way in places(stats.facts):
        if way[0] in ("model", "mask") or way[-1] in ("n_documents", "arithmetic_version"):
            continue
        value = rng.choice(VALUES)

        def alter(facts, way=way, value=value):
            for key in way[:-1]:
                facts = facts[key]
            facts[way[-1]] = value

        error = attempt(rewritten(tmp_path / "s", saved, alter))
        refused += error is not None
        n += 1
    assert refused > 0.8 * n


@pytest.mark.parametrize(
    ("name", "edit", "message"),
    [
        ("x.1/count", lambda a: a.__setitem__((0, 0, 0), -1), "count has numbers"),
        ("x.1/count", lambda a: a.__setitem__((1, 0, 2), 1), "is not the number of tokens"),
        ("x.1/range", lambda a: a.__setitem__((1, 0, 0), np.inf), "range is not that"),
        ("x.1/range", lambda a: a.__setitem__((1, 0, 0), np.nan), "range is not that"),
        ("x.1/first", lambda a: a.__setitem__(3, -1), "rows do not add up"),
        ("x.1/bucket", lambda a: a.__setitem__(0, 8192), "buckets are not what they can be"),
        ("x.1/total", lambda a: a.__setitem__(0, 0), "buckets are not what they can be"),
        ("x.1/total", lambda a: a.__setitem__(0, a[0] + 1), "totals are not its count"),
        ("x.1/fires", lambda a: a.__setitem__((0, 0, 0), 99), "fires is not between"),
        ("x.1/top.document", lambda a: a.__setitem__((1, 0, 0), -1), "places that cannot be"),
        ("x.1/top.document", lambda a: a.__setitem__((1, 0, 4), 9), "is in no window"),
        ("x.1/top.value", lambda a: a.__setitem__((1, 0), a[1, 0, ::-1].copy()), "not sorted"),
        ("x.1/top.position", lambda a: a.__setitem__((1, 0, 4), 1 << 40), "is in no window"),
        ("x.1/sum_1", lambda a: a.__setitem__((1, 3, 5), 1 << 40), "sum_abs and sum_1 of channel 3"),
        ("x.1/sum_abs", lambda a: a.__setitem__((1, 3, 5), 1), "sum_abs and sum_1 of channel 3"),
        ("x.1/sum_2", lambda a: a.__setitem__((1, 2), 0), "x.1: sum_1 and sum_2 of channel 2"),
        ("x.1/sum_2", lambda a: a.__setitem__((1, 2, 9), -1), "sum_1 and sum_2 of channel 2"),
        ("x.1/sum_3", lambda a: a.__setitem__((1, 5, 13), 1 << 60), "x.1: sum_3 of channel 5"),
        ("x.1/sum_4", lambda a: a.__setitem__((1, 127), 0), "sum_2 and sum_4 of channel 127"),
        ("x.1/sum_4", lambda a: a.__setitem__((1, 1, 18), 1 << 62), "sum_2 and sum_4 of channel 1 "),
        ("x.1/gram.rows", lambda a: a.__setitem__((0, 0), -1), "gram.rows is negative"),
        ("windows/first", lambda a: a.__setitem__(1, -4), "windows do not add up"),
        ("windows/token_id", lambda a: a.__setitem__(1, -4), "windows are not in order"),
    ],
)
def test_tensors_that_contradict_themselves(saved, tmp_path, name, edit, message):
    error = attempt(rewritten(tmp_path / "s", saved, change=(name, edit)))
    assert isinstance(error, lp.FormatError) and message in str(error), error


@pytest.mark.parametrize("seed", range(20))
def test_bits_of_sums(saved, tmp_path, seed):
    """One bit anywhere in a sum: an error that names it, or numbers that some dataset has."""
    rng = random.Random(seed)
    name = f"x.1/{rng.choice(('sum_abs', 'sum_1', 'sum_2', 'sum_3', 'sum_4'))}"

    def flip(array):
        array.reshape(-1)[rng.randrange(array.size)] ^= np.int64(1 << rng.randrange(62))

    error = attempt(rewritten(tmp_path / "s", saved, change=(name, flip)))
    assert error is None or f"{tmp_path / 's'}: x.1: sum_" in str(error)


OUTPUTS = {
    "save": "--out",
    "write_npz": "--npz",
    "write_act_scales": "--act-scales",
    "write_imatrix": "--imatrix",
}


@pytest.mark.parametrize("method", OUTPUTS)
def test_a_file_that_exists_is_replaced_only_with_force(inputs, tmp_path, method):
    if method == "write_imatrix":
        pytest.importorskip("gguf")
    write = getattr(inputs, method)
    path = tmp_path / "deep" / "er" / "file"
    write(path)
    before = path.read_bytes()
    path.write_bytes(b"other")
    with pytest.raises(lp.FileInPlaceError, match="file: exists; choose another name"):
        write(path)
    assert path.read_bytes() == b"other"
    write(path, force=True)
    assert len(path.read_bytes()) == len(before)
    with pytest.raises(lp.FileIsFolderError, match="deep: is a folder; give the name of a file"):
        write(tmp_path / "deep", force=True)
    with pytest.raises(lp.NotFolderError, match="file: is not a folder"):
        write(path / "below" / "file")


def test_a_file_of_another_kind_or_version(saved, tmp_path):
    path = tmp_path / "s"
    for alter, message in (
        (lambda facts: facts.update(format="x"), "is not a file of statistics"),
        (lambda facts: facts.update(format_version=2), "format version 2"),
        (lambda facts: facts.update(stats=["gram", "range"]), "not in its order"),
        (lambda facts: facts["targets"].pop("x.1"), "which does not belong in it"),
    ):
        assert message in str(attempt(rewritten(path, saved, alter)))
    from llamaprobe.data.tensor_file import write_tensors

    write_tensors(path, {"a": np.zeros(3, np.float32)}, {})
    assert "is not a file of statistics" in str(attempt(path))
    assert isinstance(attempt(tmp_path / "missing"), lp.FileError)


# ---- exports ----


@pytest.fixture(scope="module")
def inputs(model):
    """The inputs of all linear layers."""
    return lp.collect(model, DOCS, stats=("range", "moments"), max_tokens=50)


def test_imatrix_has_llama_cpps_names_shapes_and_types(model, inputs, tmp_path):
    gguf = pytest.importorskip("gguf")
    path = tmp_path / "imatrix.gguf"
    inputs.write_imatrix(path, dataset="three documents")
    reader = gguf.GGUFReader(path)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    assert fields["general.type"] == "imatrix" and "general.architecture" not in fields
    assert fields["imatrix.datasets"] == ["three documents"]
    assert fields["imatrix.chunk_count"] == 4 and fields["imatrix.chunk_size"] == 50
    kinds = {name: reader.fields[name].types[0].name for name in fields if "chunk" in name}
    assert set(kinds.values()) == {"UINT32"}
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    names = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    assert set(tensors) == {
        f"blk.{layer}.{name}.weight.{part}"
        for layer in range(4)
        for name in names
        for part in ("in_sum2", "in_sum", "counts")
    }
    n_tokens = sum(map(len, DOCS))
    for name, point in (("attn_k", "x_norm"), ("ffn_down", "hidden"), ("attn_output", "z")):
        rows = np.concatenate([values(model, ids, point) for ids in DOCS])
        squares = tensors[f"blk.2.{name}.weight.in_sum2"]
        assert squares.shape.tolist() == [rows.shape[1], 1] and squares.tensor_type.name == "F32"
        assert np.allclose(squares.data.reshape(-1), (rows**2).sum(0), rtol=1e-6)
        assert np.allclose(
            tensors[f"blk.2.{name}.weight.in_sum"].data.reshape(-1),
            rows.sum(0),
            rtol=1e-5,
            atol=1e-5,
        )
        counts = tensors[f"blk.2.{name}.weight.counts"]
        assert counts.shape.tolist() == [1, 1] and counts.data.reshape(-1).tolist() == [n_tokens]


def values(model, ids, point):
    rows = [model.run(ids[at : at + 50], points=[point])[point, 2] for at in range(0, len(ids), 50)]
    return np.concatenate([each.reshape(len(each), -1) for each in rows]).astype(np.float64)


def test_an_imatrix_without_gguf(inputs, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    with pytest.raises(lp.ArgumentError, match="pip install gguf"):
        inputs.write_imatrix(tmp_path / "i.gguf")
    assert list(tmp_path.iterdir()) == []


def test_act_scales_are_the_largest_inputs(model, inputs, tmp_path):
    inputs.write_act_scales(tmp_path / "a.safetensors")
    safetensors = pytest.importorskip("safetensors.numpy")
    scales = safetensors.load_file(tmp_path / "a.safetensors")
    assert len(scales) == 7 * 4
    for module, point in (("self_attn.v_proj", "x_norm"), ("mlp.down_proj", "hidden")):
        largest = np.max([np.abs(values(model, ids, point)).max(0) for ids in DOCS], 0)
        assert (scales[f"model.layers.2.{module}"] == largest).all()


def test_npz_has_floats(stats, inputs, tmp_path):
    stats.write_npz(tmp_path / "s.npz")
    with np.load(tmp_path / "s.npz") as arrays:
        assert (arrays["x.1/rest/mean"] == stats["x", 1].mean).all()
        assert (arrays["q.2/all/gram"] == stats["q", 2].all.gram()).all()
        assert (arrays["x.1/first/histogram"].sum(-1) == len(DOCS)).all()
    with pytest.raises(lp.ArgumentError, match="no input of a linear layer"):
        stats.__class__(
            stats.facts | {"targets": {"x.1": stats.facts["targets"]["x.1"]}},
            {"x.1": stats._states["x.1"]},
            stats._contexts,
        ).write_act_scales(tmp_path / "a")


# ---- the command line ----


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data.jsonl").write_text("".join(json.dumps({"input_ids": i}) + "\n" for i in DOCS))


@pytest.mark.usefixtures("data")
def test_the_command_collects_adds_up_and_exports(command, model, tmp_path):
    options = ("--stats", "moments,range", "--points", "x_norm,hidden:1-2", "--layers", "1,2")
    whole = lp.collect(
        model, DOCS, stats=("range", "moments"), points=("x_norm", "hidden:1-2"), layers=(1, 2)
    )
    code, out, _ = command("stats", "demo", "data.jsonl", *options, "--out", "all.safetensors")
    lines = out.splitlines()
    assert code == 0 and lines[-1] == f"{whole.sha256}  all.safetensors"
    assert lines[0].split()[:2] == ["target", "values"]
    assert [line.split()[0] for line in lines[1:-1]] == list(whole.targets)
    for i in range(2):
        code, out, error = command(
            "stats", "demo", "data.jsonl", *options, "--part", f"{i}/2", "--out", f"{i}"
        )
        assert code == 0 and "a part of the data" in error
    code, out, error = command(
        "stats", "--from", "1", "0", "--act-scales", "a", "--npz", "n", "--json"
    )
    found = json.loads(out)
    assert code == 0 and found["sha256"] == whole.sha256 and found["complete"] is True
    assert found["targets"]["x_norm.1"]["max"] == float(whole["x_norm", 1].max.max())
    assert found["tokens"] == whole.tokens and (tmp_path / "a").stat().st_size > 1000


@pytest.mark.usefixtures("data")
@pytest.mark.parametrize("option", OUTPUTS.values())
def test_outputs_are_checked_before_anything_is_computed(command, tmp_path, monkeypatch, option):
    monkeypatch.setattr("llamaprobe.model.load", lambda *args, **how: pytest.fail("loaded"))
    (tmp_path / "there").write_bytes(b"kept")
    for path, fact in (("there", "there: exists;"), (".", "is a folder"), ("there/x", "is not a folder")):
        code, out, error = command("stats", "demo", "data.jsonl", option, path)
        assert (code, out) == (1, "") and fact in error and len(error.splitlines()) == 1
    assert (tmp_path / "there").read_bytes() == b"kept"
    code, _, error = command("stats", "demo", "data.jsonl", "--out", "a", "--npz", "./a")
    assert code == 2 and "of one name" in error
    assert command("stats", "demo", "data.jsonl", "--force")[0] == 2


@pytest.mark.usefixtures("data")
def test_force_replaces(command):
    words = ("stats", "demo", "data.jsonl", "--points", "x:1", "--stats", "range", "--out", "s")
    assert [command(*words)[0], command(*words)[0], command(*words, "--force")[0]] == [0, 1, 0]


@pytest.mark.usefixtures("data")
def test_the_command_takes_groups_and_exact_quantiles(command):
    words = ("stats", "demo", "data.jsonl", "--points", "x:1", "--out", "s", "--quiet")
    assert command(*words, "--by", "3,7", "--exact", "0.5,0.9", "--stats", "histogram")[0] == 0
    stats = lp.read_stats("s")
    assert stats.groups == ("3", "7") and stats.facts["exact"] == ["0.5", "0.9"]
    assert stats["x", 1].of("7").quantile(0.9)[0][0] == stats["x", 1].of("7").quantile(0.9)[1][0]


@pytest.mark.usefixtures("data")
@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ((), 2, "give MODEL DATA, or --from FILE"),
        (("demo",), 2, "give MODEL DATA"),
        (("demo", "data.jsonl", "--part", "2/2"), 2, "is not I/N"),
        (("demo", "data.jsonl", "--exact", "a"), 2, "is not a list such as 0.5"),
        (("--stats", "range", "--from", "x"), 2, "leave out MODEL"),
        (("--from", "x"), 1, "x: cannot open: No such file"),
        (("demo", "data.jsonl", "--stats", "mean"), 1, "there is no statistic 'mean'"),
        (("demo", "missing.jsonl"), 1, "missing.jsonl: No such file"),
    ],
)
def test_wrong_usage(command, words, code, message):
    found, _, error = command("stats", *words)
    assert found == code and message in re.sub(r"\s+", " ", error)
