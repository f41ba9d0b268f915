"""Runs Python code in a process of its own, with an environment for one hub."""

import os
import subprocess
import sys

from installed import PLACES

_DROPPED = (
    "HF_",
    "HUGGING",
    "TRANSFORMERS_",
    "HTTP",
    "http",
    "ALL_PROXY",
    "all_proxy",
    "NO_PROXY",
    "no_proxy",
    "REQUESTS_",
)


def environment(**variables: str) -> dict[str, str]:
    """This process's environment without what affects a download, plus `variables`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_DROPPED)}
    return kept | {"PYTHONPATH": PLACES, "HF_HUB_DISABLE_XET": "1"} | variables


def start(code: str, *arguments: str, env: dict[str, str]) -> subprocess.Popen[str]:
    """A running `python -c code`; its output is captured as text."""
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.Popen(
        command,
        env=env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(
    code: str, *arguments: str, env: dict[str, str], timeout: float = 120, stdin: str = ""
) -> str:
    """What it prints; an AssertionError with its stderr if it fails."""
    process = start(code, *arguments, env=env)
    try:
        out, err = process.communicate(stdin, timeout)
    finally:
        process.kill()
    assert process.returncode == 0, err
    return out
