"""Downloads that are killed, interrupted, run out of disk, or are not alone.

LLAMAPROBE_KILLS=50 kills a download at as many moments.
"""

import hashlib
import os
import random
import re
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import hub_process
import pytest
from fakehub import FakeHub
from fakerepo import git_sha1
from hub_fixtures import (  # noqa: F401
    DEADLINE,
    REPO_ID,
    add_model,
    certificate,
    chosen,
    https,
    hub,
    leftovers,
    small_model,
    tree,
    wait_for,
)

from llamaprobe.hub import DiskFullError, download, snapshot

ONE = """
import resource, sys
from llamaprobe.hub import DiskFullError, client, download
client.FIRST_WAIT = 0.002
if len(sys.argv) > 2:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
try:
    download(sys.argv[1])
except DiskFullError as error:
    print(error, error.errno)
"""

FORKING = """
import os, sys
import requests
from llamaprobe.hub import client, download, transfer
transfer.RANGE, transfer.PARALLEL_FROM, client.PIECE = 50_000, 200_000, 10_000
for line in iter(sys.stdin.readline, ""):
    pid = os.fork()
    if pid == 0:
        try:
            download(line.strip(), progress=False)
        except BaseException as error:
            print(error, file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    print("started", flush=True)
    sys.stdin.readline()
    os.kill(pid, 9)  # not waited for yet, so the number still belongs to it
    print(os.waitpid(pid, 0)[1], flush=True)
"""


def env(hub: FakeHub, tmp_path: Path, **more: str) -> dict[str, str]:
    if "REQUESTS_CA_BUNDLE" in os.environ:
        more["REQUESTS_CA_BUNDLE"] = os.environ["REQUESTS_CA_BUNDLE"]
    more["HF_HUB_DOWNLOAD_TIMEOUT"] = str(5 * DEADLINE)
    return hub_process.environment(
        HF_ENDPOINT=hub.endpoint, HF_HOME=str(tmp_path / "hf"), HOME=str(tmp_path), **more
    )


def assert_final_names_are_true(cache: Path, files: dict[str, bytes]) -> None:
    """Whatever has a final name is whole and right."""
    for blob in cache.glob("models--*/blobs/*"):
        if re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", blob.name):
            data = blob.read_bytes()
            assert blob.name in (git_sha1(data), hashlib.sha256(data).hexdigest())
    for path in cache.glob("models--*/snapshots/*/*"):
        assert path.read_bytes() == files[path.name]


def kept(tmp_path: Path, etag: str) -> int:
    """Bytes of the unfinished file."""
    return sum(path.stat().st_size for path in (tmp_path / "hf").rglob(f"{etag}*.incomplete"))


def send(process: subprocess.Popen[str], line: str) -> str:
    """Its answer to a line."""
    process.stdin.write(line + "\n")
    process.stdin.flush()
    return process.stdout.readline()


@pytest.mark.slow
def test_killed_at_any_moment(hub: FakeHub, tmp_path: Path) -> None:
    files = add_model(hub, size=3_000_000)
    n_kills = int(os.environ.get("LLAMAPROBE_KILLS", "5"))
    cache, moments = tmp_path / "hf" / "hub", random.Random()
    parent = hub_process.start(FORKING, env=env(hub, tmp_path))
    kills, whole = 0, 0.15
    try:
        for _ in range(100 * n_kills):
            if kills >= n_kills:
                break
            assert send(parent, REPO_ID) == "started\n"
            time.sleep(moments.uniform(0, whole))
            status = int(send(parent, "kill it"))
            assert_final_names_are_true(cache, files)
            if os.WIFSIGNALED(status):
                kills += 1
            else:
                assert status == 0, parent.stderr.read()
                assert tree(snapshot(REPO_ID)) == chosen(files)
                shutil.rmtree(cache)
    finally:
        parent.stdin.close()
        parent.wait(DEADLINE)
        parent.stdout.close()
        parent.stderr.close()
    assert kills == n_kills
    assert tree(download(REPO_ID)) == chosen(files) and not leftovers(
        tmp_path / "hf" / "hub" / "blobs"
    )


def test_data_fetched_by_a_killed_process_is_kept(hub: FakeHub, tmp_path: Path) -> None:
    files = add_model(hub, size=500_000)
    hub.fault("stall", method="GET", after=400_000)
    process = hub_process.start(ONE, REPO_ID, env=env(hub, tmp_path))
    sha256 = hashlib.sha256(files["model.safetensors"]).hexdigest()
    wait_for(lambda: kept(tmp_path, sha256) == 400_000)
    process.kill()
    process.communicate()
    hub.forget()
    assert tree(download(REPO_ID)) == chosen(files)
    assert hub.sent() == 100_000


@pytest.mark.slow
def test_three_processes_do_the_work_once(hub: FakeHub, tmp_path: Path) -> None:
    files = add_model(hub, size=5_000_000)
    released = threading.Event()
    hub.fault("stall", method="GET", after=1_000_000, until=released)
    processes = [hub_process.start(ONE, REPO_ID, env=env(hub, tmp_path))]
    sha256 = hashlib.sha256(files["model.safetensors"]).hexdigest()
    wait_for(lambda: kept(tmp_path, sha256) == 1_000_000)
    processes += [hub_process.start(ONE, REPO_ID, env=env(hub, tmp_path)) for _ in range(2)]
    wait_for(lambda: len([seen for seen in hub.seen if "/revision/" in seen.path]) == 3)
    time.sleep(1)  # without a lock they would fetch now
    released.set()
    for process in processes:
        _, err = process.communicate(timeout=DEADLINE)
        assert process.returncode == 0, err
    assert hub.sent() == 5_000_000
    assert tree(snapshot(REPO_ID)) == chosen(files) and not leftovers(tmp_path)


@pytest.mark.slow
def test_four_files_at_once(hub: FakeHub, tmp_path: Path) -> None:
    """While four are awaited, a fifth is not requested."""
    different = {"special_tokens_map.json": b"1", "vocab.json": b"2", "merges.txt": b"3"}
    hub.add(REPO_ID, small_model() | different)
    fault = hub.fault("silent", where="resolve", times=100)
    process = hub_process.start(ONE, REPO_ID, env=env(hub, tmp_path))
    wait_for(lambda: fault.times <= 96)
    time.sleep(0.2)
    assert fault.times == 96
    process.kill()
    process.communicate()


@pytest.mark.slow
def test_a_full_disk_keeps_what_arrived(hub: FakeHub, tmp_path: Path) -> None:
    files = add_model(hub, size=300_000)
    out = hub_process.run(ONE, REPO_ID, "150000", env=env(hub, tmp_path))
    assert "free some space and run it again" in out
    sha256 = hashlib.sha256(files["model.safetensors"]).hexdigest()
    (partial,) = (tmp_path / "hf").rglob(f"{sha256}*.incomplete")
    assert partial.stat().st_size == 150_000
    hub.forget()
    assert tree(download(REPO_ID)) == chosen(files) and hub.sent() == 150_000


def test_free_space_is_checked_first(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = add_model(hub, size=300_000)
    monkeypatch.setattr(
        "llamaprobe.hub.transfer.shutil.disk_usage", lambda path: SimpleNamespace(free=20 << 20)
    )
    monkeypatch.setattr("llamaprobe.hub.transfer._SPARE", (20 << 20) - 100_000)
    with pytest.raises(DiskFullError, match="are missing and .* are free"):
        download(REPO_ID)
    assert hub.requests("resolve") == []
    assert tree(download(REPO_ID, force=True)) == chosen(files)


MAIN = "import sys; from llamaprobe.cli.main import main; sys.exit(main(sys.argv[1:]))"


def interrupt(process: subprocess.Popen[str]) -> None:
    """Ctrl-C ends it, long before the timeout of 600 seconds."""
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=DEADLINE)
    assert process.returncode == 130 and out == "" and "Traceback" not in err


@pytest.mark.slow
@pytest.mark.parametrize("where", ["api", "resolve", "cdn"])
def test_control_c_while_waiting_for_an_answer(hub: FakeHub, tmp_path: Path, where: str) -> None:
    hub.add(REPO_ID, small_model())
    fault = hub.fault("silent", where=where, times=1000)
    process = hub_process.start(MAIN, "download", REPO_ID, env=env(hub, tmp_path))
    wait_for(lambda: fault.times < 1000)
    interrupt(process)


@pytest.mark.slow
def test_control_c_during_a_name_lookup(hub: FakeHub, tmp_path: Path) -> None:
    code = """
import socket, sys, threading
def look_up(*_, **__):
    print("called", file=sys.stderr, flush=True)
    threading.Event().wait(60)
socket.getaddrinfo = look_up
"""
    more = {"HF_ENDPOINT": "http://hub.example"}
    process = hub_process.start(code + MAIN, "download", REPO_ID, env=env(hub, tmp_path) | more)
    assert process.stderr.readline() == "called\n"
    interrupt(process)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["hub", "https"])
def test_control_c_keeps_what_arrived(
    scheme: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    hub = request.getfixturevalue(scheme)
    files = add_model(hub, size=500_000)
    hub.fault("stall", method="GET", after=300_000)
    process = hub_process.start(MAIN, "download", REPO_ID, env=env(hub, tmp_path))
    sha256 = hashlib.sha256(files["model.safetensors"]).hexdigest()
    wait_for(lambda: kept(tmp_path, sha256) == 300_000)
    interrupt(process)
    assert kept(tmp_path, sha256) == 300_000
    assert not list((tmp_path / "hf").rglob("snapshots/*/model.safetensors"))
    hub.forget()
    assert tree(download(REPO_ID)) == chosen(files) and hub.sent() == 200_000


@pytest.mark.slow
def test_a_program_can_download_again_after_control_c(hub: FakeHub, tmp_path: Path) -> None:
    """Threads that still wait for an answer hold nothing: the same process can begin again."""
    files = add_model(hub)
    code = """
import sys
from llamaprobe.hub import download
try:
    download(sys.argv[1], progress=False)
except KeyboardInterrupt:
    print("interrupted", flush=True)
    print(download(sys.argv[1], progress=False))
"""
    fault = hub.fault("silent", times=1000)
    process = hub_process.start(code, REPO_ID, env=env(hub, tmp_path))
    wait_for(lambda: fault.times < 1000)
    hub.faults.clear()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0 and err == ""
    said, folder = out.splitlines()
    assert said == "interrupted" and tree(Path(folder)) == chosen(files)
