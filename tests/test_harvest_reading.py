"""Reading a harvest back: rows, documents, batches; and whether it is intact."""

import json
import random
import shutil

import numpy as np
import pytest
from harvests import documents, finish, hashes, make_plan

import llamaprobe as lp
from llamaprobe.data.check import check_harvest, recompute
from llamaprobe.data.copies import drop, merge, refill
from llamaprobe.data.shuffle import Shuffle


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("harvest") / "out"
    finish(make_plan(folder))
    return folder


@pytest.fixture
def copy(made, tmp_path):
    return shutil.copytree(made, tmp_path / "copy")


# ---- rows ----


def test_rows_are_indexed_as_an_array(made):
    h = lp.read_harvest(made)
    rows = h["x", 2]
    whole = np.asarray(rows)
    assert whole.shape == rows.shape == (h.n_rows, 128) and len(rows) == len(h) == h.n_rows
    rng = np.random.default_rng(5)
    some = rng.integers(-h.n_rows, h.n_rows, 300)
    for index in (
        *(0, -1, h.n_rows - 1, np.int64(7)),
        *(slice(None), slice(5, 5), slice(190, 405), slice(None, None, -3), slice(-3, None)),
        *(range(3, 700), range(10, 2, -1), some, some.astype(np.int32), some[:0], [5, 5, 1]),
        rng.random(h.n_rows) < 0.1,
    ):
        found = rows[index]
        assert found.dtype == np.float32 and np.array_equal(found, whole[index]), index
        found[...] = 0  # a copy
    assert np.array_equal(np.asarray(rows), whole)
    assert h["q", 0][[3, 4]].shape == (2, 4, 32) and h["logits"][3].shape == (960,)


@pytest.mark.parametrize("index", [10**6, -(10**6), [0, 10**6], [0.5], [[1]], "a", 1.5])
def test_missing_rows(made, index):
    with pytest.raises(IndexError):
        lp.read_harvest(made)["x", 2][index]


def test_missing_points(made):
    h = lp.read_harvest(made)
    assert h["x.2"] is h["x", 2] is h["x:2"] is h["blocks.2.hook_resid_pre"]
    for point in ("x", ("x", 3), "x.3", "pattern", "nothing", ("x", 99)):
        with pytest.raises(lp.PointError):
            h[point]


def test_documents(made):
    h, data = lp.read_harvest(made), documents()
    for number, ids in enumerate(data):
        rows = h.where(doc=number)
        assert h.tokens(number).tolist() == ids and h.place(number) == (0, number)
        assert h.rows.token_id[rows].tolist() == ids
        assert set(h.rows.document[rows].tolist()) == {number}
    for number in (-1, len(data), "a"):
        with pytest.raises(lp.ArgumentError, match="document is .*; give a number of the harvest"):
            h.tokens(number)


def test_the_whole_harvest_through_the_public_names(tmp_path):
    model, seen = lp.load("demo"), []
    texts = ["Once upon a time", "", {"text": "The cat"}, [1, 2, 3]]
    h = lp.harvest(model, iter(texts), tmp_path, points="x:1", on_shard=seen.append)
    assert len(seen) == 1 and seen[0].n_rows == h.n_rows and h.points == ("x.1",)
    assert np.array_equal(h["x", 1][h.where(doc=1)], model.run("The cat", points="x")["x", 1])
    again = lp.harvest(model, iter([]), tmp_path, points="x:1", on_shard=seen.append)
    assert again.root == h.root is not None and len(seen) == 1
    assert repr(h).startswith("<Harvest ") and "3 documents" in repr(h)


# ---- batches ----


def all_rows(h, **how):
    return np.concatenate([batch.rows for batch in h.batches("x", 2, **how)])


@pytest.mark.parametrize("shuffle", [None, 0, 7])
@pytest.mark.parametrize("size", [1, 64, 10**6])
@pytest.mark.parametrize("pool", [1, 3, 100])
def test_every_row_comes_once(made, shuffle, size, pool):
    h = lp.read_harvest(made)
    firsts = h.plan.windows.row[h.plan.windows.shard]
    order = Shuffle(firsts, shuffle, 0, pool)
    spans = [(at, min(at + size, h.n_rows)) for at in range(0, h.n_rows, size)]
    rows = np.concatenate([order.rows(*span) for span in spans])
    assert np.array_equal(np.sort(rows), np.arange(h.n_rows))
    assert np.array_equal(rows, np.arange(h.n_rows)) == (shuffle is None)


def test_batches_hold_the_values_of_their_rows(made):
    h = lp.read_harvest(made)
    for batch in h.batches("x", 2, size=100, shuffle=3):
        assert np.array_equal(batch.values, h["x", 2][batch.rows])
        assert len(batch.rows) == 100 or batch.step == h.n_rows // 100


def test_a_stopped_run_resumes_with_the_same_batches(made):
    how = {"size": 90, "shuffle": 11, "epoch": 2, "pool": 2}
    whole = [batch.rows for batch in lp.read_harvest(made).batches("x", 2, **how)]
    for start in (0, 1, 7, len(whole) - 1, len(whole)):
        rest = list(lp.read_harvest(made).batches("x", 2, start=start, **how))
        assert [batch.step for batch in rest] == list(range(start, len(whole)))
        assert all(np.array_equal(a.rows, b) for a, b in zip(rest, whole[start:], strict=True))


def test_seed_epoch_and_pool_change_the_order(made):
    h = lp.read_harvest(made)
    orders = [
        all_rows(h, shuffle=s, epoch=e, pool=p).tolist()
        for s, e, p in ((1, 0, 3), (2, 0, 3), (1, 1, 3), (1, 0, 4))
    ]
    assert len({tuple(order) for order in orders}) == 4
    assert orders[0] == all_rows(h, shuffle=1, epoch=0, pool=3).tolist()


def test_a_pool_of_all_shards_is_a_permutation_of_all_rows(made):
    """Neighbours come from anywhere: the mean distance is a third of the rows."""
    h = lp.read_harvest(made)
    order = all_rows(h, shuffle=5, pool=100)
    distance = np.abs(np.diff(order)).mean() / h.n_rows
    assert 0.3 < distance < 0.37
    near = np.abs(np.diff(all_rows(h, shuffle=5, pool=1))).mean() / h.n_rows
    assert near < 0.1


@pytest.mark.parametrize("how", [{"size": 0}, {"start": -1}, {"pool": 0}, {"epoch": -1}])
def test_arguments_of_batches(made, how):
    with pytest.raises(lp.ArgumentError):
        list(lp.read_harvest(made).batches("x", 2, **how))


# ---- what is missing or damaged ----


def test_a_missing_shard(copy):
    (copy / "x.2/shard-00001.safetensors").unlink()
    h = lp.read_harvest(copy)
    rows = h.plan.rows_of(1)
    assert h["x", 2][: rows.start].shape and h["x", 1][rows].shape
    with pytest.raises(lp.FileError, match=r"shard-00001.*shard 1 is missing"):
        h["x", 2][rows.start]


def test_a_shard_of_something_else(copy):
    shutil.copy(copy / "x.2/shard-00002.safetensors", copy / "x.2/shard-00001.safetensors")
    h = lp.read_harvest(copy)
    with pytest.raises(lp.FormatError, match="holds no x.2 of type F32 and shape"):
        h["x", 2][h.plan.rows_of(1)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m | {"root": "0" * 64}, "its root is not that of its files"),
        (lambda m: m | {"plan": "0" * 64}, "belongs to another plan"),
        (lambda m: m | {"files": 5}, "its files have no bytes and sha256"),
        (lambda m: m | {"files": {"a": {"bytes": "1", "sha256": ""}}}, "is damaged"),
    ],
)
def test_rejects_a_damaged_manifest(copy, change, message):
    path = copy / "manifest.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(lp.FormatError, match=message):
        lp.read_harvest(copy)
    assert any(message in (f.fault or "") for f in check_harvest(copy))


# ---- verify ----


def faults(folder):
    return [finding.what for finding in check_harvest(folder) if finding.fault]


def notes(folder):
    return [finding.what for finding in check_harvest(folder) if finding.note]


def test_a_sound_harvest_has_no_fault(made):
    assert faults(made) == notes(made) == []


def test_one_flipped_bit_anywhere_is_named(copy):
    rng = random.Random(4)
    names = sorted(hashes(copy))
    for name in names[:: max(1, len(names) // 25)]:
        path = copy / name
        data = bytearray(path.read_bytes())
        at = rng.randrange(len(data))
        data[at] ^= 1 << rng.randrange(8)
        before = path.read_bytes()
        path.write_bytes(data)
        found = faults(copy)
        expected = {name} if name != "plan.json" else {"plan.json", "manifest.json"}
        assert found and expected & set(found), (name, at, found)
        path.write_bytes(before)
    assert faults(copy) == []


def test_an_extra_and_a_missing_file(copy):
    shutil.copy(copy / "x.1/shard-00000.safetensors", copy / "x.1/shard-00000-1.safetensors")
    (copy / "rows/shard-00000.safetensors").unlink()
    assert faults(copy) == ["rows/shard-00000.safetensors", "x.1"]


def test_an_unfinished_harvest_has_notes(copy):
    (copy / "manifest.json").unlink()
    (copy / "done/shard-00001.json").unlink()
    assert faults(copy) == [] and notes(copy) == ["plan.json", "shard 1"]


def test_recomputing_finds_what_hashes_cannot(copy):
    """A shard, its sidecar and the manifest are altered together."""
    from llamaprobe.data.file_hash import hash_unchanged
    from llamaprobe.data.layout import root_of

    assert not any(f.fault or f.note for f in recompute(copy, 3))
    name = "x.1/shard-00001.safetensors"
    data = bytearray((copy / name).read_bytes())
    data[-3] ^= 1
    (copy / name).write_bytes(data)
    for path in (copy / "manifest.json", copy / "done/shard-00001.json"):
        facts = json.loads(path.read_text())
        facts["files"][name]["sha256"] = hash_unchanged(copy / name)
        if "root" in facts:
            facts["root"] = root_of({n: e["sha256"] for n, e in facts["files"].items()})
        path.write_text(json.dumps(facts))
    assert faults(copy) == []
    found = list(recompute(copy, [0, 1]))
    assert [f.what for f in found if f.fault] == ["shard 1, recomputed"]
    assert name in found[1].fault


def test_recomputing_needs_no_values(copy):
    drop(copy)
    assert not any(f.fault or f.note for f in recompute(copy, 2))


# ---- drop, refill, merge ----


def test_drop_and_refill_keep_the_root(copy, made):
    before = hashes(made)
    freed = drop(copy)
    assert freed > 8e6 and not list(copy.glob("x.1/*")) and len(notes(copy)) == 4 * 10
    assert lp.read_harvest(copy).root == lp.read_harvest(made).root
    refill(copy)
    assert hashes(copy) == before and faults(copy) == notes(copy) == []


def test_some_shards_alone(copy, made):
    drop(copy, [1, 3])
    assert lp.read_harvest(copy).plan.missing() == [1, 3]
    refill(copy, [3])
    assert lp.read_harvest(copy).plan.missing() == [1]
    path = copy / "x.1/shard-00005.safetensors"
    path.write_bytes(b"0" * path.stat().st_size)
    refill(copy, [1, 5])
    assert hashes(copy) == hashes(made)


def test_a_refilled_shard_must_match_the_manifest(copy):
    """Other token ids under the same names: the manifest knows better."""
    drop(copy, [0])
    path = copy / "manifest.json"
    facts = json.loads(path.read_text())
    from llamaprobe.data.layout import root_of

    facts["files"]["x.1/shard-00000.safetensors"]["sha256"] = "0" * 64
    facts["root"] = root_of({n: e["sha256"] for n, e in facts["files"].items()})
    path.write_text(json.dumps(facts))
    with pytest.raises(lp.FormatError, match=r"x\.1/shard-00000.*was made again with another"):
        refill(copy)
    assert not (copy / "x.1/shard-00000.safetensors").exists()


def test_drop_needs_a_manifest(copy):
    (copy / "manifest.json").unlink()
    for call in (drop, refill):
        with pytest.raises(lp.FileError, match="has no manifest.json"):
            call(copy)


def test_merge_copies_missing_shards_and_rejects_different_ones(copy, made, tmp_path):
    (copy / "manifest.json").unlink()
    (copy / "done/shard-00000.json").unlink()
    (copy / "done/shard-00001.json").unlink()
    with pytest.raises(lp.FileError, match="2 shards of 10 are missing, the first is 0"):
        merge(copy, [])
    assert merge(copy, [made])["root"] == lp.read_harvest(made).root
    assert hashes(copy) == hashes(made)
    other = tmp_path / "other"
    make_plan(other, max_tokens=39)
    with pytest.raises(lp.ArgumentError, match="has another plan than"):
        merge(copy, [other])
    path = copy / "done/shard-00002.json"
    facts = json.loads(path.read_text())
    facts["files"]["x.1/shard-00002.safetensors"]["sha256"] = "0" * 64
    path.write_text(json.dumps(facts))
    with pytest.raises(lp.FormatError, match=r"x\.1/shard-00002.*is not the same as in"):
        merge(copy, [made])


def test_a_damaged_shard_is_not_copied(copy, made, tmp_path):
    path = copy / "x.1/shard-00000.safetensors"
    path.write_bytes(b"0" * path.stat().st_size)
    with pytest.raises(lp.FormatError, match="does not have the sha256 of its sidecar"):
        merge(tmp_path / "new", [copy])
    assert not (tmp_path / "new/x.1/shard-00000.safetensors").exists()


def test_merge_of_nothing(tmp_path):
    with pytest.raises(lp.ArgumentError, match="no other folder is given"):
        merge(tmp_path, [])
