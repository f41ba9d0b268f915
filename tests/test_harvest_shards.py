"""Shards: the bytes are those of Model.run, whatever batches, threads, kernels, processes, order."""

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from harvests import finish, hashes, leftovers, make_plan
from installed import PLACES
from safetensors import safe_open
from safetensors.numpy import load_file

import llamaprobe as lp
from llamaprobe.data import batches, shard
from llamaprobe.data.harvest import run_plan
from llamaprobe.data.plan import Plan
from llamaprobe.data.rounding import decode, encode


@pytest.fixture(scope="module")
def model():
    return lp.load("demo", threads=1)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(folder, root) of a whole harvest."""
    folder = tmp_path_factory.mktemp("harvest") / "out"
    return folder, finish(make_plan(folder))


def plan_only(made, folder: Path) -> Plan:
    """The plan of `made` in a new folder, without shards."""
    shutil.copytree(
        made[0], folder, ignore=shutil.ignore_patterns("shard-*", "manifest.json", "done")
    )
    return Plan(folder)


# ---- the values ----


def test_every_row_equals_that_of_a_run(made, model):
    h = lp.read_harvest(made[0])
    documents_, starts = h.rows.document[:], h.rows.start[:]
    for document, start in sorted(set(zip(documents_.tolist(), starts.tolist(), strict=True))):
        rows = np.flatnonzero((documents_ == document) & (starts == start))
        ids = h.tokens(document)[start : start + 40]
        run = model.run(ids, points=("x", "q", "logits"))
        assert h.rows.position[rows].tolist() == list(range(len(ids)))
        assert np.array_equal(h.rows.token_id[rows], ids)
        for name, value in (
            *(("x.1", run["x", 1]), ("x.2", run["x", 2])),
            *(("q.0", run["q", 0]), ("logits", run["logits"])),
        ):
            assert h[name][rows].tobytes() == value.tobytes()


def test_other_readers_see_the_same_bytes(made):
    """safetensors for NumPy and by slices; NumPy alone, as docs/harvest.md has it."""
    h = lp.read_harvest(made[0])
    for number, target in itertools.product(range(len(h.plan)), h.points):
        path = made[0] / target / f"shard-{number:05d}.safetensors"
        rows = h.plan.rows_of(number)
        ours = h[target][rows.start : rows.stop]
        assert np.array_equal(load_file(path)[target], ours)
        with safe_open(path, "np") as file:
            assert np.array_equal(file.get_slice(target)[1:5], ours[1:5])
            assert file.metadata() == {
                **{"plan": h.plan.sha256, "shard": str(number)},
                "row_first": str(rows.start),
            }
        with open(path, "rb") as file:
            size = int.from_bytes(file.read(8), "little")
            entry = json.loads(file.read(size))[target]
        assert (8 + size) % 64 == 0
        by_hand = np.memmap(path, "<f4", "r", offset=8 + size, shape=tuple(entry["shape"]))
        assert np.array_equal(by_hand, ours)


def test_torch_reads_it(made):
    pytest.importorskip("torch")
    from safetensors.torch import load_file as load_torch

    ours = lp.read_harvest(made[0])["x", 1]
    found = load_torch(made[0] / "x.1" / "shard-00000.safetensors")["x.1"]
    assert np.array_equal(found.numpy(), ours[: len(found)])


@pytest.mark.parametrize("positions", ["last", "skip:1", "2-5", "hash:0.3"])
@pytest.mark.parametrize("stride", [0, 7])
def test_positions(tmp_path, model, positions, stride):
    plan = make_plan(tmp_path, points=["x:2"], positions=positions, stride=stride)
    finish(plan)
    h = lp.read_harvest(tmp_path)
    assert h.n_rows < plan.n_tokens
    for row in range(0, h.n_rows, 5):
        document, start = int(h.rows.document[row]), int(h.rows.start[row])
        position = int(h.rows.position[row])
        ids = h.tokens(document)[start : start + 40]
        assert h.rows.token_id[row] == ids[position] and (not start or position >= stride)
        assert np.array_equal(h["x", 2][row], model.run(ids, points="x")["x", 2][position])


@pytest.mark.parametrize("dtype", ["bf16", "f16"])
def test_half_the_bytes(tmp_path, made, dtype):
    torch = pytest.importorskip("torch")
    plan = make_plan(tmp_path, dtype=dtype)
    finish(plan)
    exact, found = lp.read_harvest(made[0])["x", 2][:], lp.read_harvest(tmp_path)["x", 2][:]
    kind = {"bf16": torch.bfloat16, "f16": torch.float16}[dtype]
    assert np.array_equal(found, torch.from_numpy(exact).to(kind).float().numpy())


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
def test_rounding_of_every_kind_of_float(dtype):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(1)
    bits = rng.integers(0, 1 << 32, 200_000, dtype=np.uint64).astype(np.uint32)
    edges = [0, 0x80000000, 1, 0x7F800000, 0xFF800000, 0x7F7FFFFF, 0x477FF000, 0x33000001, 0x8000]
    values = np.concatenate([bits, np.array(edges, np.uint32)]).view(np.float32)
    with np.errstate(invalid="ignore"):
        found = decode(encode(values, dtype, True), dtype)
    kind = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}[dtype]
    expected = torch.from_numpy(values).to(kind).float().numpy()
    nan = np.isnan(values)
    assert np.array_equal(np.isnan(found), np.isnan(expected)) and nan.any()
    assert np.array_equal(found[~nan].view(np.uint32), expected[~nan].view(np.uint32))
    assert (
        len(np.unique(encode(values, dtype, True)[nan].view(f"u{4 if dtype == 'F32' else 2}"))) == 1
    )


def test_non_finite_values_are_counted(tmp_path, random_checkpoint):
    """A weight of 1e38 makes infinities and NaN; their bytes are the same for every batch."""
    import models

    config = models.make_config()
    weights = models.make_weights(config, 0, "F32")
    name = "model.layers.0.mlp.down_proj.weight"
    weights[name] = np.full_like(weights[name], 3e38)
    weights["model.layers.0.mlp.up_proj.weight"] *= 1e20
    folder = models.write_checkpoint(tmp_path / "model", config, weights, "F32")
    model = lp.load(folder)
    data = [[1, 2, 3, 4], [5, 6]]
    found = []
    for batch in (1, 2048):
        plan = lp.plan_harvest(model, data, tmp_path / str(batch), points=["x", "x_out"])
        shards = [lp.harvest_shard(plan, 0, model=model, batch_tokens=batch).sha256]
        entry = plan.sidecar(0)["files"]["x.1/shard-00000.safetensors"]
        values = lp.read_harvest(plan.folder)["x", 1][:]
        assert entry["nan"] == np.isnan(values).sum() and entry["inf"] == np.isinf(values).sum()
        assert entry["nan"] + entry["inf"] == sum(sum(n) for n in entry["channels"].values()) > 0
        assert "nan" not in plan.sidecar(0)["files"]["x.0/shard-00000.safetensors"]
        found.append(shards)
    assert found[0] == found[1]


# ---- one root ----


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("batch_tokens", [1, 64, 2048])
def test_threads_and_batches_change_no_byte(tmp_path, made, threads, batch_tokens):
    plan = plan_only(made, tmp_path / "out")
    assert finish(plan, threads=threads, batch_tokens=batch_tokens) == made[1]
    assert hashes(plan.folder) == hashes(made[0])


VARIANTS = [row.name for row in lp.kernels() if row.supported]


def spawn(code: str, **env: str) -> subprocess.Popen:
    paths = os.pathsep.join([PLACES, os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": paths, **env},
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("variant", VARIANTS)
def test_kernels_change_no_byte(tmp_path, made, variant):
    """The first and the last shard: emulated kernels take seconds for all."""
    plan = plan_only(made, tmp_path / "out")
    last, folder = len(plan) - 1, str(plan.folder)
    code = f"import llamaprobe as lp\nfor i in (0, {last}): lp.harvest_shard({folder!r}, i)"
    worker = spawn(code, LLAMAPROBE_KERNELS=variant)
    assert worker.wait(300) == 0, worker.stderr.read()
    for name in plan.names(0) + plan.names(last):
        assert (plan.folder / name).read_bytes() == (made[0] / name).read_bytes()
    sidecar = json.loads((plan.folder / "done/shard-00000.json").read_text())
    assert sidecar["made"]["kernels"] == variant


def test_three_processes_make_every_shard_in_any_order(tmp_path, made):
    """Each process makes all shards, one from the end: many are made twice at once."""
    plan = plan_only(made, tmp_path / "out")
    code = (
        "import llamaprobe as lp, llamaprobe.data.plan as data\n"
        f"plan = data.Plan({str(plan.folder)!r})\n"
        "for i in ORDER: lp.harvest_shard(plan, i, threads=1)\n"
    )
    orders = ("range(len(plan))", "reversed(range(len(plan)))", "range(len(plan))")
    workers = [spawn(code.replace("ORDER", order)) for order in orders]
    assert [worker.wait(300) for worker in workers] == [0, 0, 0], workers[0].stderr.read()
    assert finish(Plan(plan.folder)) == made[1]
    assert hashes(plan.folder) == hashes(made[0]) and not leftovers(plan.folder)


def test_parts_twice_and_in_reverse_in_their_own_folders(tmp_path, made, command):
    """A simulated array job: every part twice, the last first, each pair in a folder of its own."""
    folders = []
    for number in reversed(range(3)):
        folder = tmp_path / f"part{number}"
        plan_only(made, folder)
        folders.append(folder)
        for _ in range(2):
            words = ("--part", f"{number}/3", "--batch-tokens", 64 + number, "--quiet")
            code, out, _ = command("harvest", "run", "--plan", folder, *words)
            assert (code, out) == (0, "")
    code, out, error = command("harvest", "merge", tmp_path / "all", *folders)
    assert code == 0, error
    assert out.split()[0] == made[1] and hashes(tmp_path / "all") == hashes(made[0])


def test_threads_of_one_process_make_shards_at_once(tmp_path, made, model):
    plan = plan_only(made, tmp_path / "out")
    errors = []

    def work(order):
        try:
            for number in order:
                lp.harvest_shard(plan, number, model=model)
        except Exception as error:  # noqa: BLE001
            errors.append(error)

    n = len(plan)
    orders = [range(n), list(reversed(range(n))), range(n)]
    workers = [threading.Thread(target=work, args=(order,)) for order in orders]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not errors and finish(plan) == made[1] and not leftovers(plan.folder)


def test_the_order_of_documents_changes_rows_but_no_value(tmp_path, made):
    plan = make_plan(tmp_path, order="permuted:5")
    finish(plan)
    one, other = lp.read_harvest(made[0]), lp.read_harvest(tmp_path)
    assert not np.array_equal(one.rows.document[:], other.rows.document[:])
    for document in range(0, plan.n_documents, 7):
        assert np.array_equal(
            one["x", 2][one.where(doc=document)], other["x", 2][other.where(doc=document)]
        )


def test_a_shard_is_made_once(tmp_path, made, monkeypatch):
    plan = plan_only(made, tmp_path / "out")
    first = lp.harvest_shard(plan, 1)
    monkeypatch.setattr(shard, "write_values", lambda *args, **how: pytest.fail("made again"))
    again = lp.harvest_shard(str(plan.path), 1)
    assert first.is_new and not again.is_new and again.sha256 == first.sha256
    assert plan.missing() == [i for i in range(len(plan)) if i != 1]


@pytest.mark.parametrize("number", [-1, 10_000, 1.0, "1", True])
def test_rejects_shard_numbers_out_of_range(made, number):
    with pytest.raises(lp.ArgumentError, match="shard"):
        lp.harvest_shard(made[0], number)


def test_a_shard_of_another_size_or_without_sidecar_is_made_again(tmp_path, made):
    folder = tmp_path / "out"
    shutil.copytree(made[0], folder)
    (folder / "done/shard-00000.json").unlink()
    (folder / "done/shard-00001.json").write_text("{")
    path = folder / "x.1/shard-00002.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    (folder / "logits/shard-00003.safetensors").unlink()
    plan = Plan(folder)
    assert plan.missing() == [0, 1, 2, 3]
    assert finish(plan) == made[1] and hashes(folder) == hashes(made[0])


# ---- the model ----


def test_another_model_is_refused(tmp_path, made, random_checkpoint, demo_folder):
    plan = plan_only(made, tmp_path / "out")
    with pytest.raises(lp.ArgumentError, match="the weights are not those of"):
        lp.harvest_shard(plan, 0, model=lp.load(random_checkpoint()))
    shutil.copytree(demo_folder, tmp_path / "copy")
    assert lp.harvest_shard(plan, 0, model=str(tmp_path / "copy")).is_new
    with pytest.raises(lp.ArgumentError, match="the number of layers is not"):
        lp.harvest_shard(plan, 1, model=lp.load("demo", layers=3))
    plan.facts["arithmetic_version"] += 1
    with pytest.raises(lp.ArgumentError, match="arithmetic version 2, this llamaprobe has 1"):
        lp.harvest_shard(plan, 1)


def test_a_changed_byte_outside_of_the_fingerprint(tmp_path, made, demo_folder):
    plan = plan_only(made, tmp_path / "out")
    shutil.copytree(demo_folder, tmp_path / "copy")
    path = tmp_path / "copy" / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[20_000] ^= 1
    path.write_bytes(data)
    here, there = lp.load("demo"), lp.load(tmp_path / "copy")
    assert [*here.fingerprints.by_name().values()] == [*there.fingerprints.by_name().values()]
    with pytest.raises(lp.ArgumentError, match="the weights are not those of"):
        lp.harvest_shard(plan, 0, model=there)
    assert lp.harvest_shard(plan, 0, model=here).is_new


def test_changed_weights_are_noticed(tmp_path, made, demo_folder):
    plan = plan_only(made, tmp_path / "out")
    shutil.copytree(demo_folder, tmp_path / "copy")
    model = lp.load(tmp_path / "copy")
    os.utime(tmp_path / "copy" / "model.safetensors", (1, 1))
    with pytest.raises(lp.FileChangedError):
        lp.harvest_shard(plan, 0, model=model)
    assert not plan.is_done(0) and not leftovers(plan.folder)


def test_a_model_with_fewer_layers_open(tmp_path):
    plan = make_plan(tmp_path / "out", model=lp.load("demo", layers=2), points="x")
    assert plan.targets == ("x.0", "x.1")
    finish(plan)  # opens it from model.json


# ---- memory and disk ----


class Small:
    """A core that runs at most so many tokens at once."""

    def __init__(self, core, most):
        self._core, self._most, self.sizes = core, most, []

    def run(self, ids, *args, **how):
        self.sizes.append(len(ids))
        if len(ids) > self._most:
            raise lp.OutOfMemory(f"x needs {len(ids)} bytes")
        return self._core.run(ids, *args, **how)


def test_out_of_memory_halves_the_batch(tmp_path, made, model, monkeypatch):
    plan = plan_only(made, tmp_path / "out")
    core = Small(model._open(), 70)
    monkeypatch.setattr(type(model), "_open", lambda self: core)
    assert finish(plan, model=model) == made[1] and hashes(plan.folder) == hashes(made[0])
    refused = [size for size in core.sizes if size > 70]
    assert len(refused) < 4 * len(plan) and max(core.sizes) > 150


def test_a_window_that_does_not_fit_in_memory_is_named(tmp_path, made, model, monkeypatch):
    plan = plan_only(made, tmp_path / "out")
    monkeypatch.setattr(type(model), "_open", lambda self, core=Small(model._open(), 39): core)
    message = r"document \d+ alone, 40 tokens from token 0 on, does not fit: x needs 40 bytes"
    with pytest.raises(lp.OutOfMemory, match=message):
        finish(plan, model=model)
    assert not leftovers(plan.folder)


def test_batches_are_bounded_in_bytes(made, model, monkeypatch):
    monkeypatch.setattr(batches, "_BATCH_BYTES", 4 * (2 * 128 + 128 + 960) * 50)
    forward = batches.Forward(Plan(made[0]), model, threads=1, batch_tokens=2048)
    found = list(forward.run(range(20)))
    assert max(batch.n_tokens for batch in found) <= 50 and len(found) > 5


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_full_disk_loses_nothing_that_was_finished(tmp_path, made, share):
    """A limit on the size of a file is met in the middle of a write, as the end of a disk is."""
    plan = plan_only(made, tmp_path / "out")
    lp.harvest_shard(plan, 0)
    size = os.path.getsize(made[0] / "logits/shard-00001.safetensors")
    code = (
        "import resource, signal, sys, llamaprobe as lp\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({int(size * share)},) * 2)\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "try:\n"
        f"    lp.harvest_shard({str(plan.path)!r}, 1)\n"
        "except lp.FileError as error:\n"
        "    sys.exit(str(error))\n"
    )
    worker = spawn(code)
    assert worker.wait(300) == 1
    message = worker.stderr.read()
    assert "shard-00001.safetensors: File too large" in message
    assert plan.is_done(0) and not plan.is_done(1) and not leftovers(plan.folder)
    assert finish(plan) == made[1]


@pytest.mark.parametrize("call", ["fsync", "replace", "write"])
def test_an_error_of_the_system_at_every_call(tmp_path, made, monkeypatch, call):
    """The n-th call fails, for every n until none does."""
    from llamaprobe.data import tensor_file

    plan = plan_only(made, tmp_path / "out")
    model = lp.load("demo")
    real = {"fsync": os.fsync, "replace": os.replace, "write": tensor_file._write_all}[call]
    place = (tensor_file, "_write_all") if call == "write" else (os, call)
    failed = 0
    for at in itertools.count():
        calls = itertools.count()

        def fail(*args, at=at, calls=calls):
            if next(calls) == at:
                raise OSError(28, "No space left on device")
            return real(*args)

        with monkeypatch.context() as patch:
            patch.setattr(*place, fail)
            try:
                lp.harvest_shard(plan, 0, model=model)
            except lp.FileError as error:
                assert "No space left" in str(error)
                failed += 1
            else:
                break
        assert not leftovers(plan.folder)
        for name in plan.names(0) if plan.is_done(0) else ():  # only the sync of done/ failed
            assert (plan.folder / name).read_bytes() == (made[0] / name).read_bytes()
        (plan.folder / "done/shard-00000.json").unlink(missing_ok=True)
    assert failed > 4 and plan.is_done(0)
    assert finish(plan) == made[1]


def test_reports_too_little_space_before_any_work(tmp_path, made, monkeypatch):
    plan = plan_only(made, tmp_path / "out")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(9, 9, 1000))
    with pytest.raises(lp.FileError, match="are to be written and 1.0 kB are free"):
        run_plan(plan)
    assert len(plan.missing()) == len(plan)


def test_ctrl_c_leaves_no_trace(tmp_path, made):
    plan = plan_only(made, tmp_path / "out")

    def stop(n_tokens):
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        lp.harvest_shard(plan, 0, batch_tokens=10, report=stop)
    assert not leftovers(plan.folder) and not plan.is_done(0)


@pytest.mark.linux
@pytest.mark.slow
def test_memory_stays_flat_over_ten_thousand_documents(tmp_path):
    """In a process of its own: the peak after 10,000 documents is that after 1,000."""
    code = (
        "import resource, sys, llamaprobe as lp, numpy as np\n"
        "model = lp.load('demo', threads=1)\n"
        "ids = np.random.default_rng(1).integers(0, 960, 64)\n"
        "peaks = []\n"
        "def note(info): peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
        "data = ([int(i) for i in ids[: 1 + n % 64]] for n in range(10_000))\n"
        f"lp.harvest(model, data, {str(tmp_path)!r}, points='x:1', shard_rows=8192, on_shard=note)\n"
        "print(len(peaks), peaks[len(peaks) // 10] >> 10, peaks[-1] >> 10, file=sys.stderr)\n"
    )
    worker = spawn(code)
    text = worker.communicate(timeout=600)[1]
    assert worker.returncode == 0, text
    n_shards, early, late = map(int, text.split()[-3:])
    assert n_shards > 30 and late - early < 32, text


def test_documents_of_one_token_and_of_all_positions(tmp_path, model):
    plan = make_plan(
        tmp_path, [[1], list(range(960)) * 2, [2]], points="x:1", max_tokens=2048, shard_rows=2048
    )
    finish(plan)
    h = lp.read_harvest(tmp_path)
    assert [len(h.where(doc=i)) for i in range(3)] == [1, 1920, 1]
    assert np.array_equal(h["x", 1][1921:], model.run([2], points="x")["x", 1])
