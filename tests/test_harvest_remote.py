"""A harvest on an object store: the same bytes, exactly once, whatever the store does."""

import contextlib
import itertools
import os
import pickle
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from harvests import finish, hashes, make_plan
from installed import PLACES

import llamaprobe as lp
from llamaprobe.data import patience, shard
from llamaprobe.data.check import check_harvest, recompute
from llamaprobe.data.copies import drop, merge, refill
from llamaprobe.data.place import is_url, open_folder
from llamaprobe.data.plan import Plan, open_plan

fsspec = pytest.importorskip("fsspec")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(folder, root) of a whole harvest on disk."""
    folder = tmp_path_factory.mktemp("harvest") / "out"
    return folder, finish(make_plan(folder))


@pytest.fixture(params=["memory", "file"])
def url(request, tmp_path, monkeypatch):
    """An empty place; the temporary folder is one that can be looked at."""
    monkeypatch.setattr(patience, "WAITS", (0.0, 0.0, 0.0))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    if request.param == "file":
        yield f"file://{tmp_path}/store/out"
    else:
        yield "memory://store/out"
        memory_store().rm("/store", recursive=True)


def memory_store():
    store = fsspec.filesystem("memory")
    store.makedirs("/store", exist_ok=True)
    return store


def files_of(url: str) -> dict[str, bytes]:
    """Name -> bytes."""
    store, root = fsspec.core.url_to_fs(url)
    return {name[len(root) + 1 :]: store.cat_file(name) for name in store.find(root)}


def sha_of(url: str) -> dict[str, str]:
    import hashlib

    found = {name: hashlib.sha256(data).hexdigest() for name, data in files_of(url).items()}
    return {name: each for name, each in found.items() if name == "plan.json" or "safet" in name}


def plan_only(made, url: str) -> Plan:
    """The plan of `made` on a store, without shards."""
    store, root = fsspec.core.url_to_fs(url)
    for name in ("plan.json", "windows.safetensors", "model.json", "tokens/part-00000.safetensors"):
        store.makedirs(f"{root}/{name}".rpartition("/")[0], exist_ok=True)
        store.put_file(str(made[0] / name), f"{root}/{name}")
    return Plan(url)


def test_a_harvest_on_a_store_has_the_bytes_of_one_on_disk(tmp_path, made, url):
    plan = make_plan(url)
    assert plan.sha256 == Plan(made[0]).sha256 and plan.files.place == url
    root = finish(plan)
    assert root == made[1] and sha_of(url) == hashes(made[0])
    assert make_plan(url).missing() == []
    with pytest.raises(lp.ArgumentError, match=r"out: holds another plan: options.max_tokens"):
        make_plan(url, max_tokens=41)
    shards = [path for path in (tmp_path / "tmp").rglob("shard-*.safetensors")]
    assert not shards, "a shard that was uploaded is not kept"


def test_reads_back_from_a_store(made, url, tmp_path):
    finish(make_plan(url))
    ours, theirs = lp.read_harvest(url), lp.read_harvest(made[0])
    assert ours.root == theirs.root and url in repr(ours)
    for point in ("x.2", "logits"):
        assert np.array_equal(ours[point][:], theirs[point][:])
    assert np.array_equal(ours.tokens(3), theirs.tokens(3)) and ours.where(doc=3) == theirs.where(
        doc=3
    )
    batches = zip(
        ours.batches("x", 1, size=300, shuffle=5, start=1),
        theirs.batches("x", 1, size=300, shuffle=5, start=1),
        strict=True,
    )
    assert all(np.array_equal(one.values, other.values) for one, other in batches)
    assert np.array_equal(ours.rows.token_id[:], theirs.rows.token_id[:])


def test_a_cache_is_kept_and_checked(made, url, tmp_path, monkeypatch):
    finish(make_plan(url))
    folder = tmp_path / "cache"
    first = lp.read_harvest(url, cache=folder)["x", 1][:]
    kept = list(folder.rglob("x.1/*.safetensors"))
    assert len(kept) == len(Plan(made[0]))
    data = kept[0].read_bytes()
    kept[0].write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    store, _ = fsspec.core.url_to_fs(url)
    opened = []
    real = type(store).open
    monkeypatch.setattr(
        type(store), "open", lambda self, p, *a, **k: (opened.append(p), real(self, p, *a, **k))[1]
    )
    assert np.array_equal(lp.read_harvest(url, cache=folder)["x", 1][:], first)
    assert [Path(path).name for path in opened if "x.1" in path] == [kept[0].name]
    assert kept[0].read_bytes() == data


def test_an_engine_makes_shards_by_url_and_fetches_the_plan_once(made, url):
    plan_only(made, url)
    infos = [lp.harvest_shard(url, i) for i in range(len(Plan(made[0])))]
    assert all(info.is_new for info in infos)
    assert not lp.harvest_shard(url + "/plan.json", 0).is_new
    assert open_plan(url) is open_plan(url)
    assert pickle.loads(pickle.dumps(open_plan(url))).sha256 == Plan(made[0]).sha256
    assert finish(Plan(url)) == made[1]


def test_a_plan_that_was_replaced_is_fetched_again(made, url):
    old = open_plan(plan_only(made, url).files.place)
    assert open_plan(url) is old
    store, root = fsspec.core.url_to_fs(url)
    store.rm(root, recursive=True)
    make_plan(url, max_tokens=30)
    assert open_plan(url).options["max_tokens"] == 30


def test_verify_drop_and_refill_on_a_store(made, url):
    finish(make_plan(url))
    assert not [each for each in check_harvest(url) if each.fault or each.note]
    assert not [each for each in recompute(url, 2) if each.fault]
    before = sha_of(url)
    assert drop(url) > 0 and len(sha_of(url)) < len(before)
    notes = [each for each in check_harvest(url) if each.note]
    assert len(notes) == len(Plan(url)) * len(Plan(url).targets)
    refill(url)
    assert sha_of(url) == before
    store, root = fsspec.core.url_to_fs(url)
    name = "x.1/shard-00001.safetensors"
    data = store.cat_file(f"{root}/{name}")
    store.pipe_file(f"{root}/{name}", data[:-3] + b"abc")
    store.pipe_file(f"{root}/x.1/shard-99999.safetensors", b"")
    faults = {each.what: each.fault for each in check_harvest(url) if each.fault}
    assert list(faults) == [name, "x.1"] and "was altered" in faults[name]
    with pytest.raises(lp.FormatError, match=r"x.1/shard-00001.safetensors: does not have"):
        _ = lp.read_harvest(url)["x", 1][:]


def test_merge_to_and_from_a_store(made, url, tmp_path):
    shutil.copytree(made[0], tmp_path / "half")
    for number in range(1, len(Plan(made[0])), 2):
        (tmp_path / f"half/done/shard-{number:05d}.json").unlink()
    plan = plan_only(made, url)
    for number in range(1, len(plan), 2):
        lp.harvest_shard(plan, number)
    assert merge(url, [tmp_path / "half"])["root"] == made[1] and sha_of(url) == hashes(made[0])
    assert merge(tmp_path / "new", [url])["root"] == made[1]
    assert hashes(tmp_path / "new") == hashes(made[0])


def test_the_command_line_takes_a_url(tmp_path, command, url):
    if url.startswith("memory"):
        pytest.skip("a store of this process")
    data = tmp_path / "data.txt"
    data.write_text("Once upon a time\nThere was a miller\n")
    words = ("harvest", "run", "demo", data, "--out", url, "--points", "x:1")
    code, output, error = command(*map(str, words))
    assert code == 0 and output.split()[1] == f"{url}/manifest.json", error
    assert command("verify", url)[0] == 0
    assert command("harvest", "export", url, "--out", str(tmp_path), "--points", "y")[0] != 0


# ---- stores that fail ----

STORE_CALLS = ("put_file", "info", "cat_file", "open")


class Flaky:
    """Every call of a kind fails when `fails(number of the call)` says so."""

    def __init__(self, monkeypatch, fails, calls=STORE_CALLS, error=OSError(5, "503 slow down")):
        from fsspec.implementations.memory import MemoryFileSystem as Store

        self.failed, count = 0, itertools.count()
        for name in calls:
            monkeypatch.setattr(Store, name, self._wrapped(getattr(Store, name), fails, count))
        self.error = error

    def _wrapped(self, real, fails, count):
        def call(*args, **how):
            if fails(next(count)):
                self.failed += 1
                raise self.error
            return real(*args, **how)

        return call


@pytest.mark.parametrize("url", ["memory"], indirect=True)
def test_transient_failures_cost_only_time(made, url, monkeypatch):
    """A third of all calls fails, with errors of the system and of the client of a store."""
    rng = random.Random(1)
    monkeypatch.setattr(patience, "WAITS", (0.0,) * 20)
    with monkeypatch.context() as patch:
        flaky = Flaky(patch, lambda n: rng.random() < 1 / 3, error=RuntimeError("connection reset"))
        assert finish(make_plan(url)) == made[1]
        assert flaky.failed > 50
        assert np.array_equal(lp.read_harvest(url)["x", 1][:], lp.read_harvest(made[0])["x", 1][:])
    assert sha_of(url) == hashes(made[0])


@pytest.mark.parametrize("url", ["memory"], indirect=True)
@pytest.mark.parametrize("call", STORE_CALLS)
def test_a_store_that_stays_down_is_named_and_loses_nothing(made, url, monkeypatch, call, tmp_path):
    plan = plan_only(made, url)
    lp.harvest_shard(plan, 0)
    with monkeypatch.context() as patch:
        flaky = Flaky(patch, lambda n: True, calls=(call,))
        with pytest.raises(lp.FileError, match=r"memory://store/out/\S+: .*503 slow down") as error:
            lp.harvest_shard(url, 1)
            lp.harvest_shard(Plan(url), 1)  # the plan of the first is kept
            _ = lp.read_harvest(url)["x", 1][0]
        assert flaky.failed >= len(patience.WAITS) + 1 and error.value.errno == 5
    assert not list(tmp_path.rglob("tmp/*/logits/*")), "nothing is kept of what could not be put"
    assert 0 not in plan.missing()
    assert finish(Plan(url)) == made[1] and sha_of(url) == hashes(made[0])


@pytest.mark.parametrize("url", ["memory"], indirect=True)
def test_what_cannot_pass_is_not_repeated(made, url, monkeypatch):
    plan = plan_only(made, url)
    flaky = Flaky(monkeypatch, lambda n: True, ("put_file",), PermissionError(13, "no key"))
    with pytest.raises(lp.FileError, match="no key") as error:
        lp.harvest_shard(plan, 1)
    assert flaky.failed == 1 and isinstance(error.value, PermissionError)


@pytest.mark.parametrize("url", ["memory"], indirect=True)
def test_an_upload_that_kept_only_a_part_is_repeated(made, url, monkeypatch):
    from fsspec.implementations.memory import MemoryFileSystem as Store

    plan, real, cut = plan_only(made, url), Store.put_file, itertools.count()

    def put_file(self, source, target, **how):
        real(self, source, target, **how)
        if next(cut) % 2 == 0:
            self.pipe_file(target, self.cat_file(target)[:-7])

    monkeypatch.setattr(Store, "put_file", put_file)
    assert finish(plan) == made[1] and sha_of(url) == hashes(made[0])


@pytest.mark.parametrize("url", ["memory"], indirect=True)
def test_nothing_depends_on_a_listing(made, url, monkeypatch):
    """A store that shows new files late, and one without listings at all."""
    from fsspec.implementations.memory import MemoryFileSystem as Store

    def ls(self, *args, **how):
        pytest.fail("listed")

    with monkeypatch.context() as patch:
        for name in ("ls", "find", "glob"):
            patch.setattr(Store, name, ls)
        assert finish(make_plan(url)) == made[1]
        assert len(lp.read_harvest(url)["x", 1][:]) == Plan(made[0]).n_rows
    assert sha_of(url) == hashes(made[0])


@pytest.mark.parametrize("url", ["memory"], indirect=True)
def test_the_sidecar_is_put_after_its_files(made, url, monkeypatch):
    from fsspec.implementations.memory import MemoryFileSystem as Store

    names = []
    real = Store.put_file
    monkeypatch.setattr(
        Store,
        "put_file",
        lambda self, s, t, **how: (names.append(t.split("out/")[1]), real(self, s, t, **how))[1],
    )
    plan = make_plan(url)
    assert names[-1] == "plan.json" and len(names) > 3
    names.clear()
    lp.harvest_shard(plan, 2)
    assert names == [*plan.names(2), "done/shard-00002.json"]
    monkeypatch.setattr(shard, "write_values", lambda *args, **how: pytest.fail("made again"))
    assert not lp.harvest_shard(plan, 2).is_new


@pytest.mark.slow
def test_workers_that_are_killed_leave_a_store_that_is_finished_by_others(made, tmp_path):
    url = f"file://{tmp_path}/store/out"
    plan_only(made, url)
    code = (
        "import itertools, os, signal, sys, llamaprobe as lp\n"
        "from fsspec.implementations.local import LocalFileSystem as Store\n"
        "real, calls = Store.put_file, itertools.count()\n"
        "def put_file(self, *args, **how):\n"
        "    if next(calls) == int(sys.argv[2]):\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return real(self, *args, **how)\n"
        "Store.put_file = put_file\n"
        "from llamaprobe.data.plan import Plan\n"
        "from llamaprobe.data.harvest import run_plan\n"
        "run_plan(Plan(sys.argv[1]), threads=1)\n"
    )
    paths = os.pathsep.join([PLACES, os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, "PYTHONPATH": paths, "TMPDIR": str(tmp_path)}
    for at in (2, 8, 13):
        worker = subprocess.run([sys.executable, "-c", code, url, str(at)], env=env, timeout=300)
        assert worker.returncode == -signal.SIGKILL
    assert 0 < len(Plan(url).missing()) < len(Plan(url))
    assert finish(Plan(url)) == made[1] and sha_of(url) == hashes(made[0])


@pytest.fixture
def bucket(monkeypatch):
    """The URL of a bucket of a server that speaks S3, on this machine."""
    s3fs, _ = pytest.importorskip("s3fs"), pytest.importorskip("moto.server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, "-c", "from moto.server import main; main()", "-p", str(port)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(words, **quiet) as server:
        try:
            for _ in range(600):
                with contextlib.suppress(OSError):
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                time.sleep(0.1)
            for name, value in (
                ("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}"),
                *(("AWS_ACCESS_KEY_ID", "a"), ("AWS_SECRET_ACCESS_KEY", "b")),
                ("AWS_DEFAULT_REGION", "us-east-1"),
            ):
                monkeypatch.setenv(name, value)
            s3fs.S3FileSystem().mkdir("bucket")
            yield "s3://bucket"
        finally:
            server.kill()


@pytest.mark.slow
def test_a_harvest_in_a_bucket(made, bucket):
    url = f"{bucket}/out"
    assert finish(make_plan(url)) == made[1] and sha_of(url) == hashes(made[0])
    assert np.array_equal(lp.read_harvest(url)["x", 1][:], lp.read_harvest(made[0])["x", 1][:])
    assert not [each for each in check_harvest(url) if each.fault or each.note]
    assert drop(url) > 0 and len(Plan(url).missing()) == len(Plan(url))
    refill(url)
    assert lp.harvest_shard(url, 0).is_new is False and sha_of(url) == hashes(made[0])
    with pytest.raises(lp.FileError, match="s3://nothing/out/.*bucket does not exist"):
        make_plan("s3://nothing/out")


# ---- wrong places ----


def test_unknown_stores_and_missing_plans_are_named(url):
    with pytest.raises(lp.ArgumentError, match="nowhere://x"):
        lp.read_harvest("nowhere://x")
    with pytest.raises(lp.FileError, match=r"out/plan.json: no such plan"):
        lp.read_harvest(url)
    assert is_url("s3://b/o") and not is_url("out") and not is_url(Path("s3://b"))
    assert open_folder("s3:/b").path == Path("s3:/b")


def test_without_fsspec_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(lp.ArgumentError, match=r"pip install 'llamaprobe\[remote\]'"):
        lp.read_harvest("memory://a")
