"""kill -9 at any moment costs what was under way: the next run ends with the same bytes."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest
from harvests import finish, hashes, leftovers, make_plan
from installed import PLACES

from llamaprobe.data.plan import Plan

# Says when it begins; dies of SIGKILL at the n-th call of something that touches the disk.
_DIES = """
import itertools, os, signal, sys
import harvests
from llamaprobe.data import harvest, plan, tensor_file
calls, at = itertools.count(), int(sys.argv[2])
def counted(function):
    def call(*args, **how):
        if next(calls) == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **how)
    return call
tensor_file._write_all = counted(tensor_file._write_all)
os.fsync, os.replace, os.unlink = map(counted, (os.fsync, os.replace, os.unlink))
harvests.make_plan(harvests.Path(sys.argv[1]))
harvest.run_plan(plan.Plan(sys.argv[1]), threads=1, batch_tokens=int(sys.argv[3]))
print(next(calls))
"""
_SAYS_SHARDS = """
import sys, harvests
from llamaprobe.data import harvest, plan
print("begins", flush=True)
harvests.make_plan(harvests.Path(sys.argv[1]))
harvest.run_plan(
    plan.Plan(sys.argv[1]), threads=1, batch_tokens=int(sys.argv[2]),
    on_shard=lambda info: print(info.shard, flush=True),
)
"""


def start(code, *words):
    paths = os.pathsep.join([PLACES, os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, words)],
        env={**os.environ, "PYTHONPATH": paths},
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("harvest") / "out"
    finish(make_plan(folder))
    return folder


def check(folder, undisturbed):
    """Resumes, and compares with an undisturbed harvest."""
    made = [path for path in folder.glob("done/*.json")]
    for path in made:
        plan = Plan(folder)
        number = int(path.stem.rpartition("-")[2])
        assert plan.is_done(number)
        for name in plan.names(number):
            assert (folder / name).read_bytes() == (undisturbed / name).read_bytes()
    finish(make_plan(folder))
    assert hashes(folder) == hashes(undisturbed) and not leftovers(folder)


def n_calls(folder):
    worker = start(_DIES, folder, -1, 64)
    return int(worker.communicate(timeout=300)[0])


def calls_to_die_at(tmp_path, n, seed):
    total = n_calls(tmp_path / "counted")
    assert total > 100
    return random.Random(seed).sample(range(total - 1), n)


def die(tmp_path, undisturbed, moments):
    rng = random.Random(1)
    for number, at in enumerate(moments):
        folder = tmp_path / str(number)
        worker = start(_DIES, folder, at, rng.choice((1, 64, 2048)))
        worker.communicate(timeout=300)
        if worker.returncode == 0:  # fewer calls, with larger batches
            continue
        assert worker.returncode == -signal.SIGKILL
        check(folder, undisturbed)


@pytest.mark.slow
def test_killed_between_two_calls(tmp_path, undisturbed):
    die(tmp_path, undisturbed, calls_to_die_at(tmp_path, 3, 1))


@pytest.mark.slow
def test_killed_between_any_two_calls(tmp_path, undisturbed):
    die(tmp_path, undisturbed, calls_to_die_at(tmp_path, 80, 2))


def killed_at_random(folder, n, seed):
    """Kills so many workers in one folder, shortly after one of their first shards or while they
    plan: how many were killed."""
    rng, killed = random.Random(seed), 0
    for _ in range(n):
        worker = start(_SAYS_SHARDS, folder, rng.choice((1, 8, 64)))
        for _ in range(1 + rng.randrange(4)):
            worker.stdout.readline()  # "begins", then a line for each shard
        time.sleep(rng.uniform(0, 0.03))
        worker.kill()
        worker.communicate(timeout=300)
        killed += worker.returncode == -signal.SIGKILL
    return killed


@pytest.mark.slow
def test_killed_at_random_moments(tmp_path, undisturbed):
    assert killed_at_random(tmp_path / "out", 3, 3) > 0
    check(tmp_path / "out", undisturbed)


@pytest.mark.slow
def test_killed_at_many_random_moments(tmp_path, undisturbed):
    for number in range(15):
        assert killed_at_random(tmp_path / str(number), 8, number) > 0
        check(tmp_path / str(number), undisturbed)


def test_removes_leftovers_of_a_killed_manifest_writer(tmp_path):
    folder = tmp_path / "out"
    finish(make_plan(folder))
    names = [".", "rows", "done", "x.1"]
    for name in names:
        (folder / name / ".llamaprobe-1-1.part").write_bytes(b"half")
    assert len(leftovers(folder)) == len(names)
    finish(make_plan(folder))
    assert not leftovers(folder)
