"""What a download logs to "llamaprobe", and that it is silent by default."""

import logging
import subprocess
import sys
from pathlib import Path

import pytest
from fakehub import FakeHub
from hub_fixtures import REPO_ID, hub, small_model  # noqa: F401
from hub_process import environment

import llamaprobe as lp
from llamaprobe.hub import client, download, snapshot


def said(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    found = [(r.levelname, r.getMessage()) for r in caplog.records if r.name == "llamaprobe"]
    caplog.clear()
    return found


def test_logs_where_files_were_found(hub: FakeHub, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    repo = hub.add(REPO_ID, small_model())
    folder = download(REPO_ID, progress=False)
    messages = said(caplog)
    assert all(level == "INFO" for level, _ in messages)
    messages = [message for _, message in messages]
    assert f"{REPO_ID} at main: the hub has commit {repo.commit}" in messages
    assert f"{REPO_ID}: 0 of 6 files are here" in messages
    assert f"{REPO_ID}: model.safetensors: downloaded, 300000 bytes" in messages
    assert messages[-1] == f"{REPO_ID} at main: all is in {folder}"
    snapshot(REPO_ID)
    assert said(caplog) == [
        ("INFO", f"{REPO_ID} at main: all is in {folder}; no request is sent")
    ]
    download(REPO_ID, local_dir=tmp_path / "plain", progress=False)
    messages = [message for _, message in said(caplog)]
    assert f"{REPO_ID}: model.safetensors: copied from the cache, 300000 bytes" in messages


def test_retries_waits_and_fallbacks(
    hub: FakeHub, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    hub.add(REPO_ID, small_model())
    hub.fault("status", where="api", status=503)
    hub.fault("drop", method="GET", after=100_000)
    download(REPO_ID, progress=False)
    warned = [message for level, message in said(caplog) if level == "WARNING"]
    assert len(warned) == 2 and all(" s" in m and "; trying again in 0." in m for m in warned)
    assert "answers 503" in warned[0] and "ended" in warned[1] or "broke" in warned[1]
    assert "sig=" not in "".join(warned), "no query of a signed address"
    monkeypatch.setattr(client, "MAX_TRIES", 1)
    hub.fault("status", where="api", status=503, times=10)
    with pytest.warns(UserWarning, match="using what is on this disk"):
        download(REPO_ID, progress=False)
    warned = [message for level, message in said(caplog) if level == "WARNING"]
    assert len(warned) == 1 and "using what is on this disk, which may be older" in warned[0]


@pytest.mark.slow
def test_nothing_goes_to_stderr_by_default(hub: FakeHub):
    """Also not by the last resort of logging, which is not even imported."""
    hub.add(REPO_ID, small_model())
    hub.fault("status", where="api", status=503)
    script = """
import sys, llamaprobe.hub as hub, llamaprobe.hub.client as client
client.FIRST_WAIT = 0.002
hub.download(sys.argv[1], progress=False)
"""
    again = """
import sys, llamaprobe.hub as hub
hub.snapshot(sys.argv[1])
assert "logging" not in sys.modules
"""
    for code in (script, again):
        run = subprocess.run(
            [sys.executable, "-c", code, REPO_ID],
            env=environment(HF_ENDPOINT=hub.endpoint, HF_HOME=str(Path.home() / "hf")),
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert (run.returncode, run.stderr) == (0, "")


def test_the_logger_can_be_turned_off(hub: FakeHub, caplog: pytest.LogCaptureFixture):
    hub.add(REPO_ID, small_model())
    logger = logging.getLogger("llamaprobe")
    logger.setLevel(logging.ERROR)
    try:
        download(REPO_ID, progress=False)
    finally:
        logger.setLevel(logging.NOTSET)
    assert said(caplog) == [] and lp.__version__
