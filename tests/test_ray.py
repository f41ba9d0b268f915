"""Harvests on Ray: workers, actors and drivers that are killed change no byte."""

import contextlib
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from harvests import finish, hashes, leftovers, make_plan
from installed import PLACES

import llamaprobe as lp
import llamaprobe.ray as lp_ray
from llamaprobe.data.plan import Plan

PATHS = os.pathsep.join([PLACES, os.environ.get("PYTHONPATH", "")])
ENV = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled", "PYTHONPATH": PATHS}
SMALL = {"shard_rows": 40}  # some 60 shards


def test_without_ray_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(lp.ArgumentError, match=r"pip install 'llamaprobe\[ray\]'"):
        lp_ray.harvest(make_plan(tmp_path / "out"))


def test_a_worker_returns_numbers_and_hashes_alone(tmp_path):
    plan = make_plan(tmp_path / "out")
    worker = pickle.loads(pickle.dumps(lp_ray.Worker(plan.folder)))
    found = worker({"id": [1, 0]})
    assert found["shard"] == [1, 0] and plan.is_done(0) and plan.is_done(1)
    assert found["sha256"][0] == lp.harvest_shard(plan, 1).sha256
    assert len(pickle.dumps(found)) < 500 and len(pickle.dumps(worker)) < 500


@pytest.fixture(autouse=True)
def bounded():
    """A Ray that has lost a part of itself may wait for ever."""

    def stop(*_):
        raise TimeoutError("a test of Ray took too long")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(300)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("harvest") / "out"
    return folder, finish(make_plan(folder, **SMALL))


@pytest.fixture
def plan(made, tmp_path):
    """The plan of `made` without shards."""
    shutil.copytree(
        made[0], tmp_path / "out", ignore=shutil.ignore_patterns("shard-*", "manifest.json", "done")
    )
    return Plan(tmp_path / "out")


@pytest.fixture(scope="module")
def ray():
    """Ray on two cores; its folder has a short path, as sockets need."""
    os.environ |= ENV
    ray = pytest.importorskip("ray")
    with tempfile.TemporaryDirectory(prefix="lp", ignore_cleanup_errors=True) as folder:
        ray.init(
            num_cpus=2, include_dashboard=False, object_store_memory=80 << 20, _temp_dir=folder
        )
        yield ray
        ray.shutdown()


def workers() -> list[int]:
    """The processes of this Ray that make a shard."""
    from ray._private.worker import _global_node

    (raylet,) = _global_node.all_processes["raylet"]
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            words = (path / "cmdline").read_bytes()
        except (OSError, ValueError):
            continue
        if parent == raylet.process.pid and words.startswith(b"ray::_make"):
            found.append(int(path.name))
    return found


@pytest.mark.slow
def test_workers_that_are_killed_change_no_byte(ray, plan, made):
    killed = []

    def kill(info):
        running = [pid for pid in workers() if pid not in killed]
        if running and len(killed) < 3:
            os.kill(running[0], signal.SIGKILL)
            killed.append(running[0])

    h = lp_ray.harvest(plan, on_shard=kill)
    assert killed and h.root == made[1]
    assert hashes(plan.folder) == hashes(made[0]) and not leftovers(plan.folder)
    again = []
    assert lp_ray.harvest(plan.path, on_shard=again.append).root == made[1] and not again


@pytest.mark.slow
def test_an_actor_that_is_killed_changes_no_byte(ray, plan, made):
    kind = ray.remote(lp_ray.Worker).options(max_restarts=-1, max_task_retries=-1)
    actor = kind.remote(str(plan.folder))
    pid = ray.get(actor.__ray_call__.remote(lambda self: os.getpid()))
    waiting = [actor.make.remote(shard) for shard in plan.missing()]
    first, waiting = ray.wait(waiting)
    os.kill(pid, signal.SIGKILL)
    assert len({ray.get(each).sha256 for each in (*first, *waiting)}) == len(plan)
    assert ray.get(actor.__ray_call__.remote(lambda self: os.getpid())) != pid
    ray.kill(actor)
    assert finish(plan) == made[1] and hashes(plan.folder) == hashes(made[0])
    assert not leftovers(plan.folder)


@pytest.mark.slow
def test_ray_data_makes_shards_by_their_number(ray, plan, made):
    pytest.importorskip("ray.data")
    ray.data.DataContext.get_current().enable_progress_bars = False
    found = (
        ray.data.from_items([{"id": shard} for shard in plan.missing()])
        .map_batches(lp_ray.Worker, fn_constructor_args=(str(plan.folder),), batch_size=1)
        .take_all()
    )
    assert sorted(row["shard"] for row in found) == list(range(len(plan)))
    assert finish(plan) == made[1]


@pytest.mark.slow
def test_an_error_of_a_shard_is_raised_as_its_own_class(ray, plan):
    path = plan.folder / "x.1"
    path.rmdir()
    path.write_text("not a folder")
    with pytest.raises(lp.FileError, match="x.1"):
        lp_ray.harvest(plan)


_DRIVER = """
import os, signal, sys, ray, llamaprobe.ray
from ray._private.worker import _global_node
ray.init(num_cpus=2, include_dashboard=False, object_store_memory=80 << 20, _temp_dir=sys.argv[2])
def kill(info):
    if sys.argv[3] == "raylet":
        from ray._private.worker import _global_node
        os.kill(_global_node.all_processes["raylet"][0].process.pid, signal.SIGKILL)
    else:
        os.kill(os.getpid(), signal.SIGKILL)
llamaprobe.ray.harvest(sys.argv[1], on_shard=kill)
"""


@pytest.mark.slow
@pytest.mark.parametrize("who", ["driver", "raylet"])
def test_a_folder_that_ray_left_is_finished_without_it(plan, made, who):
    pytest.importorskip("ray")
    env = {**os.environ, **ENV}
    with tempfile.TemporaryDirectory(prefix="lp", ignore_cleanup_errors=True) as folder:
        words = [sys.executable, "-c", _DRIVER, str(plan.folder), folder, who]
        driver = subprocess.Popen(words, env=env, start_new_session=True)
        deadline = time.monotonic() + 240
        try:
            while not list(plan.folder.glob("done/*.json")) and time.monotonic() < deadline:
                time.sleep(0.05)
            driver.wait(60)
        except subprocess.TimeoutExpired:
            assert who == "raylet"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(driver.pid, signal.SIGKILL)
            driver.wait(60)
        assert plan.missing() != list(range(len(plan)))
        assert finish(plan) == made[1] and hashes(plan.folder) == hashes(made[0])
        assert not leftovers(plan.folder)
