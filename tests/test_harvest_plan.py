"""Plans: what is decided before anything is computed, and that it is the same everywhere."""

import json
import os
import pickle
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from harvests import documents, finish, hashes, make_plan
from hypothesis import given
from hypothesis import strategies as st

import llamaprobe as lp
from llamaprobe.data.mixing import permutation
from llamaprobe.data.plan import Plan
from llamaprobe.data.positions import read_positions
from llamaprobe.data.windows import cut


def test_a_plan_is_reproducible_to_the_byte(tmp_path):
    plan, other = (make_plan(tmp_path / name) for name in "ab")
    assert hashes(plan.folder) == hashes(other.folder) and plan.sha256 == other.sha256
    text = plan.path.read_text()
    assert str(tmp_path) not in text and text.isascii()


def test_a_copied_model_and_file_give_the_same_plan(tmp_path, demo_folder):
    """Neither names of folders nor times are part of it."""
    plans = []
    for name in "ab":
        folder = tmp_path / name
        shutil.copytree(demo_folder, folder / f"model_{name}")
        (folder / "data.txt").write_text("Once upon a time\nThe cat\n")
        model = lp.load(folder / f"model_{name}")
        plans.append(make_plan(folder / "out", folder / "data.txt", model).sha256)
    assert plans[0] == plans[1]


@pytest.mark.parametrize(
    "change",
    [
        {"points": "x:1"},
        {"positions": "skip:1"},
        {"dtype": "bf16"},
        {"max_tokens": 41},
        {"long": "cut"},
        {"stride": 1},
        {"order": "permuted:1"},
        {"shard_rows": 201},
        {"limit_tokens": 500},
        {"on_bad": "skip"},
    ],
)
def test_every_option_is_part_of_it_and_another_plan_is_refused(tmp_path, change):
    plan = make_plan(tmp_path / "a")
    assert make_plan(tmp_path / "b", **change).sha256 != plan.sha256
    with pytest.raises(lp.ArgumentError, match="holds another plan: .* there and .* here"):
        make_plan(tmp_path / "a", **change)


def test_the_same_plan_is_given_back_without_reading_the_data(tmp_path):
    plan = make_plan(tmp_path, iter(documents()))

    def unread():
        raise AssertionError("the data was read again")
        yield

    assert make_plan(tmp_path, unread()).sha256 == plan.sha256


def test_another_file_or_model_is_another_plan(tmp_path, demo_folder):
    (tmp_path / "a.txt").write_text("Once\n")
    make_plan(tmp_path / "out", tmp_path / "a.txt")
    (tmp_path / "a.txt").write_text("Twice\n")
    with pytest.raises(lp.ArgumentError, match=r"sources.* is .*5"):
        make_plan(tmp_path / "out", tmp_path / "a.txt")
    (tmp_path / "a.txt").write_text("Once\n")
    shutil.copytree(demo_folder, tmp_path / "model")
    path = tmp_path / "model" / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(lp.ArgumentError, match=r"model\.weights"):
        make_plan(tmp_path / "out", tmp_path / "a.txt", lp.load(tmp_path / "model"))


def test_skipped_documents_are_listed(tmp_path):
    data = tmp_path / "a.jsonl"
    data.write_text('"one"\n""\n{"text": 5}\n"two"\n{"input_ids": [960]}\n')
    with pytest.raises(
        lp.FormatError, match=rf"{data}: line 3 \(document 2\): text is 5.*--on-bad skip"
    ):
        make_plan(tmp_path / "out", data)
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").glob("*.json"))
    plan = make_plan(tmp_path / "out", data, on_bad="skip")
    assert plan.n_documents == 2 and plan.facts["skipped"] == {"empty": 1, "bad": 2, "long": 0}
    lines = [json.loads(line) for line in (tmp_path / "out/skipped.jsonl").open()]
    assert [(line["document"].rpartition(": ")[2], line["kind"]) for line in lines] == [
        *(("line 2", "empty"), ("line 3", "bad"), ("line 5", "bad"))
    ]
    assert [plan.tokens.place(i) for i in range(2)] == [(0, 0), (0, 3)]


def test_long_documents(tmp_path):
    data = [list(range(100)), list(range(40))]
    split = make_plan(tmp_path / "split", data).windows
    assert list(zip(split.document, split.start, split.stop, strict=True)) == [
        *((0, 0, 40), (0, 40, 80), (0, 80, 100), (1, 0, 40))
    ]
    cut = make_plan(tmp_path / "cut", data, long="cut").windows
    assert cut.stop.tolist() == [40, 40]
    with pytest.raises(lp.FormatError, match="document 0: has 100 tokens, over max_tokens=40"):
        make_plan(tmp_path / "refuse", data, long="refuse")
    refused = make_plan(tmp_path / "refuse", data, long="refuse", on_bad="skip")
    assert refused.n_documents == 1 and refused.facts["skipped"]["long"] == 1


@pytest.mark.parametrize("stride", [0, 3])
def test_bos_always_stands_before_every_window(tmp_path, stride):
    """Every token of a document keeps exactly one row; a row's token is that of its place."""
    model = lp.load("demo")
    bos = model.config.bos_token_id
    data = [[bos, *range(5, 12)], list(range(5, 40)), list(range(40, 58))]
    options = {"points": ["x:1"], "max_tokens": 10, "shard_rows": 30, "stride": stride}
    finish(make_plan(tmp_path / "out", data, model, bos="always", **options))
    h = lp.read_harvest(tmp_path / "out")
    assert [h.tokens(i)[0] for i in range(3)] == [bos] * 3
    assert [len(h.tokens(i)) for i in range(3)] == [8, 36, 19]
    assert h.n_rows == 8 + 36 + 19 and len(h.plan.windows.start) > 6
    places = set()
    for row in range(h.n_rows):
        document, start = int(h.rows.document[row]), int(h.rows.start[row])
        position, ids = int(h.rows.position[row]), h.tokens(document)
        places.add((document, start + position))
        assert h.rows.token_id[row] == ids[start + position]
        window = [bos, *ids[start + 1 : start + 10]]
        assert np.array_equal(h["x", 1][row], model.run(window, points="x")["x", 1][position])
    assert len(places) == h.n_rows
    with pytest.raises(lp.ArgumentError, match="holds another plan: options.bos"):
        make_plan(tmp_path / "out", data, model, **options)
    with pytest.raises(lp.ArgumentError, match="stride is 9; give an integer from 0 to 8"):
        make_plan(tmp_path / "a", data, model, bos="always", **options | {"stride": 9})


def test_bos_always_adds_what_a_text_lacks(tmp_path):
    model = lp.load("demo")
    texts = ["Once upon a time", [], [{"role": "user", "content": "Once"}]]
    plan = make_plan(tmp_path, texts, model, bos="always")
    bos = model.config.bos_token_id
    assert plan.n_documents == 2 and plan.facts["skipped"]["empty"] == 1
    for document in range(2):
        ids = plan.tokens.of(document).tolist()
        assert ids[0] == bos and ids.count(bos) == 1


def test_bos_always_needs_a_bos(tmp_path, demo_folder):
    shutil.copytree(demo_folder, tmp_path / "copy")
    path = tmp_path / "copy/config.json"
    config = json.loads(path.read_text())
    del config["bos_token_id"]
    path.write_text(json.dumps(config))
    with pytest.raises(lp.ArgumentError, match="needs a bos_token_id"):
        make_plan(tmp_path / "out", model=lp.load(tmp_path / "copy"), bos="always")


def test_a_new_plan_replaces_that_of_another_arithmetic(tmp_path):
    """What was made by the old rules is made again, and the manifest is that of the new plan."""
    plan = make_plan(tmp_path / "out")
    root = finish(plan)
    path = tmp_path / "out/plan.json"
    path.write_text(re.sub(r'("arithmetic_version": )[0-9]+', r"\g<1>0", path.read_text()))
    with pytest.raises(lp.ArgumentError, match="arithmetic_version is 0 there"):
        make_plan(tmp_path / "out")
    new = make_plan(tmp_path / "out", new_plan=True)
    assert finish(new) == root and new.sha256 == plan.sha256
    with pytest.raises(lp.ArgumentError, match="options.max_tokens"):  # of this arithmetic
        make_plan(tmp_path / "out", new_plan=True, max_tokens=41)


def test_the_limit_cuts_the_last_document(tmp_path):
    plan = make_plan(tmp_path, [[1] * 30, [2] * 30, [3] * 30], limit_tokens=50)
    assert plan.tokens.lengths().tolist() == [30, 20] and plan.n_tokens == 50


@pytest.mark.parametrize("data", [[], [[]], ["", []]])
def test_no_document_left_is_an_error(tmp_path, data):
    with pytest.raises(lp.ArgumentError, match="no document is left"):
        make_plan(tmp_path, data)


def test_files_without_a_document_are_named(tmp_path):
    path = tmp_path / "empty.txt"
    path.write_text("")
    with pytest.raises(lp.ArgumentError, match=r"empty\.txt: no document is left"):
        make_plan(tmp_path / "out", path)


def test_rejects_positions_beyond_every_document(tmp_path):
    with pytest.raises(lp.ArgumentError, match="leaves no row"):
        make_plan(tmp_path, [[1, 2]], positions="skip:2")


@pytest.mark.parametrize(
    "options",
    [
        {"points": "nothing"},
        {"points": "pattern"},
        {"points": "x:9"},
        {"points": []},
        {"points": ["x:2-1"]},
        {"positions": "first"},
        {"positions": "hash:1.5"},
        {"positions": "5-3"},
        {"dtype": "f64"},
        {"max_tokens": 0},
        {"max_tokens": 2049},
        {"max_tokens": 1.5},
        {"stride": 40},
        {"long": "drop"},
        {"bos": "sometimes"},
        {"order": "random"},
        {"order": "permuted:x"},
        {"shard_rows": 39},
        {"limit_tokens": 0},
        {"on_bad": "ignore"},
        {"field": "a", "ids": "b"},
    ],
)
def test_rejects_meaningless_options(tmp_path, options):
    with pytest.raises(lp.ArgumentError):
        make_plan(tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_points_and_layers(tmp_path):
    plan = make_plan(tmp_path, points=["x:1-2", "blocks.0.attn.hook_q", "logits", ("x", 2)])
    assert plan.targets == ("x.1", "x.2", "q.0", "logits")
    assert plan.shapes["q.0"] == (4, 32)
    assert make_plan(tmp_path / "all", points="x").targets == tuple(f"x.{i}" for i in range(4))


def test_default_shards_depend_on_the_width_alone(tmp_path):
    assert make_plan(tmp_path / "a", shard_rows=None, points="x:1").options["shard_rows"] == 1 << 17
    rows = make_plan(tmp_path / "b", shard_rows=None, points="logits").options["shard_rows"]
    assert rows == 1 << 16 and rows * 960 * 4 <= 256 << 20


# ---- windows, positions, orders ----

KINDS = ("all", "last", "skip:3", "2-5", "hash:0.5")


@given(
    st.lists(st.integers(1, 60), min_size=1, max_size=12),
    st.integers(1, 20),
    st.integers(0, 19),
    st.sampled_from(KINDS),
    st.integers(20, 60),
)
def test_windows_against_a_plain_loop(lengths, max_tokens, stride, kind, shard_rows):
    stride = min(stride, max_tokens - 1)
    positions = read_positions(kind)
    found = cut(
        np.array(lengths),
        np.arange(len(lengths)),
        max_tokens=max_tokens,
        stride=stride,
        is_cut=False,
        positions=positions,
        shard_rows=shard_rows,
    )
    expected, rows = [], []
    for document, length in enumerate(lengths):
        start = 0
        while start == 0 or start + stride < length:
            stop = min(start + max_tokens, length)
            n = len(positions.of(document, start, stop, stride if start else 0))
            if n:
                expected.append((document, start, stop))
                rows.append(n)
            start += max_tokens - stride
    windows = zip(found.document.tolist(), found.start.tolist(), found.stop.tolist(), strict=True)
    assert list(windows) == expected
    assert np.diff(found.row).tolist() == rows
    shards = np.diff(found.row[found.shard])
    assert np.all(shards <= shard_rows) and np.all(shards > 0)
    for shard in range(len(shards) - 1):  # none could have taken one more window
        assert shards[shard] + rows[found.shard[shard + 1]] > shard_rows


def test_every_token_has_one_row_with_and_without_stride():
    for stride in (0, 3):
        found = cut(
            np.array([57]),
            np.arange(1),
            max_tokens=10,
            stride=stride,
            is_cut=False,
            positions=read_positions("all"),
            shard_rows=100,
        )
        tokens = [
            start + position
            for start, stop in zip(found.start.tolist(), found.stop.tolist(), strict=True)
            for position in read_positions("all").of(0, start, stop, stride if start else 0)
        ]
        assert tokens == list(range(57))


def test_a_fraction_of_the_tokens_is_about_that():
    kept = read_positions("hash:0.01").of(5, 0, 100_000, 0)
    assert 800 < len(kept) < 1200
    assert len(np.intersect1d(kept, read_positions("hash:0.01").of(6, 0, 100_000, 0))) < 50


def test_a_permutation_is_complete_and_never_changes():
    assert np.array_equal(np.sort(permutation(1000, 7)), np.arange(1000))
    assert not np.array_equal(permutation(1000, 7), permutation(1000, 8))
    assert permutation(8, 7).tolist() == [7, 1, 2, 3, 5, 4, 0, 6]


# ---- untrusted plans ----


def damaged(plan: Plan, **facts) -> Path:
    plan.path.write_text(json.dumps(plan.facts | facts))
    return plan.path


@pytest.mark.parametrize(
    "facts",
    [
        {"format": "other"},
        {"format_version": "1"},
        {"n_rows": "5"},
        {"n_shards": 0},
        {"targets": {}},
        {"targets": {"../x": {"shape": [1]}}},
        {"targets": {"x.1": {"shape": ["a"]}}},
        {"targets": {"x.1": 5}},
        {"files": {"../../etc": {}}},
        {"options": {}},
        {"options": {"dtype": "f64", "positions": "all"}},
        {"options": {"dtype": "f16", "positions": 5}},
        {"options": {"dtype": "f16", "positions": "all", "stride": -1}},
        {"options": {"dtype": "f16", "positions": "all", "stride": 0, "bos_token": 1 << 40}},
        {"options": {"dtype": "f16", "positions": "all", "stride": 0, "bos_token": "1"}},
    ],
)
def test_rejects_a_damaged_plan(tmp_path, facts):
    with pytest.raises((lp.FormatError, lp.ArgumentError)):
        Plan(damaged(make_plan(tmp_path), **facts))


def test_a_later_format_is_refused(tmp_path):
    with pytest.raises(lp.FormatError, match="format version 2; this llamaprobe knows 1"):
        Plan(damaged(make_plan(tmp_path), format_version=2))


def test_rejects_windows_of_another_plan(tmp_path):
    plan, other = make_plan(tmp_path / "a"), make_plan(tmp_path / "b", max_tokens=20)
    os.replace(other.folder / "windows.safetensors", plan.folder / "windows.safetensors")
    with pytest.raises(lp.FormatError, match=r"windows\.safetensors: does not have the sha256"):
        Plan(plan.path).rows_of(0)
    files = plan.facts["files"]
    files["windows.safetensors"] = other.facts["files"]["windows.safetensors"]
    with pytest.raises(lp.FormatError, match=r"windows\.safetensors: holds \d+ windows"):
        Plan(damaged(plan, files=files)).rows_of(0)


def test_a_plan_is_pickled_as_its_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = make_plan(Path("out"))
    data = pickle.dumps(plan)
    monkeypatch.chdir("/")
    assert pickle.loads(data).sha256 == plan.sha256 and len(data) < 1000


def test_no_plan(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such plan"):
        Plan(tmp_path)


@pytest.mark.slow
def test_a_million_short_documents_in_a_minute(tmp_path):
    import time

    began = time.process_time()
    plan = make_plan(tmp_path, ([1, 2, 3] for _ in range(1_000_000)), shard_rows=None)
    assert plan.n_rows == 3_000_000
    assert time.process_time() - began < 60
