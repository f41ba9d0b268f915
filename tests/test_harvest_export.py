"""A harvest as Parquet, Arrow and .npy files: what pyarrow, Polars, DuckDB and pandas read from them."""

import json
import sys

import numpy as np
import pytest
from harvests import finish, hashes, make_plan

import llamaprobe as lp
from llamaprobe.data.export import export_harvest

COLUMNS = ("document", "start", "position", "token_id")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("harvest") / "out"
    finish(make_plan(folder))
    return folder


def test_parquet_holds_every_row(made, tmp_path):
    pytest.importorskip("pyarrow")
    from pyarrow import parquet

    h, before = lp.read_harvest(made), hashes(made)
    paths = export_harvest(made, tmp_path)
    assert len(paths) == len(h.plan) and hashes(made) == before
    for shard, path in enumerate(paths):
        table, rows = parquet.read_table(path), h.plan.rows_of(shard)
        assert table["row"].to_pylist() == list(rows)
        for name in COLUMNS:
            assert np.array_equal(table[name].to_numpy(), getattr(h.rows, name)[rows])
        for name in h.points:
            found = table[name].combine_chunks().flatten().to_numpy()
            assert found.tobytes() == h[name][rows].tobytes()
        assert table.schema.metadata[b"llamaprobe_root"].decode() == h.root


def test_arrow_and_fewer_points(made, tmp_path, monkeypatch):
    pa = pytest.importorskip("pyarrow")
    monkeypatch.setattr("llamaprobe.data.export._GROUP", 7)
    h = lp.read_harvest(made)
    (path, *_) = export_harvest(made, tmp_path, format="arrow", points=[("x", 2)])
    table = pa.ipc.open_stream(path).read_all()
    assert table.column_names == ["row", *COLUMNS, "x.2"]
    rows = h.plan.rows_of(0)
    assert np.array_equal(np.array(table["x.2"].to_pylist(), np.float32), h["x", 2][rows])
    (path, *_) = export_harvest(made, tmp_path / "rows", points=())
    assert pa.parquet.read_table(path).column_names == ["row", *COLUMNS]


@pytest.mark.parametrize("dtype", ["float32", "bf16"])
def test_npy_is_one_array_of_all_rows(tmp_path, dtype):
    finish(make_plan(tmp_path / "h", dtype=dtype))
    h = lp.read_harvest(tmp_path / "h")
    paths = export_harvest(tmp_path / "h", tmp_path / "npy", format="npy", points=["x.1", "logits"])
    assert [path.stem for path in paths] == [*COLUMNS, "x.1", "logits"]
    for name in ("x.1", "logits"):
        found = np.load(tmp_path / "npy" / f"{name}.npy", mmap_mode="r")
        assert found.dtype == np.float32 and found.tobytes() == h[name][:].tobytes()
    for name in COLUMNS:
        assert np.array_equal(np.load(tmp_path / "npy" / f"{name}.npy"), getattr(h.rows, name)[:])
    assert json.loads((tmp_path / "npy/export.json").read_text())["root"] == h.root


def test_run_exports_beside_the_harvest(tmp_path, command):
    (tmp_path / "data.txt").write_text("Once upon a time\n")
    words = ("harvest", "run", "demo", tmp_path / "data.txt", "--out", tmp_path / "out")
    code, _, error = command(*words, "--points", "x:1", "--format", "npy")
    assert code == 0, error
    h = lp.read_harvest(tmp_path / "out")
    assert np.array_equal(np.load(tmp_path / "out/npy/x.1.npy"), h["x", 1][:])
    assert command("verify", tmp_path / "out")[0] == 0


def test_other_readers(made, tmp_path):
    pytest.importorskip("pyarrow")
    h = lp.read_harvest(made)
    export_harvest(made, tmp_path, points=["x.1"])
    rows = h.where(doc=5)
    polars = pytest.importorskip("polars")
    table = polars.read_parquet(tmp_path / "*.parquet").filter(polars.col("document") == 5)
    assert np.array_equal(np.stack(table["x.1"].to_list()), h["x", 1][rows])
    duckdb = pytest.importorskip("duckdb")
    query = f"select \"x.1\" from '{tmp_path}/*.parquet' where document = 5 order by row"
    found = [row[0] for row in duckdb.sql(query).fetchall()]
    assert np.array_equal(np.array(found, np.float32), h["x", 1][rows])


def test_the_command(made, tmp_path, command):
    pytest.importorskip("pyarrow")
    words = ("harvest", "export", made, "--out", tmp_path)
    code, text, _ = command(*words, "--points", "x.1,logits")
    assert code == 0 and text.count(".parquet\n") == len(lp.read_harvest(made).plan)
    assert command(*words, "--no-values", "--points", "x.1")[0] == 2
    code, _, error = command(*words, "--points", "x.3")
    assert code == 1 and "x.3 was not harvested" in error


def test_rejects_impossible_exports(made, tmp_path, monkeypatch):
    with pytest.raises(lp.ArgumentError, match="give parquet, arrow, npy"):
        export_harvest(made, tmp_path, format="zarr")
    plan = make_plan(tmp_path / "unfinished")
    with pytest.raises(lp.FileError, match=r"has no manifest\.json"):
        export_harvest(plan.folder, tmp_path / "out")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(lp.ArgumentError, match=r"pip install 'llamaprobe\[data\]'"):
        export_harvest(made, tmp_path / "out")
