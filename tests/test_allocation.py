"""Python's own allocations fail, one after the other, in every call of the C core."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from installed import PLACES

REPO = Path(__file__).parent.parent


def test_each_allocation_of_a_call_can_fail(random_checkpoint):
    pytest.importorskip("_testcapi", reason="this Python cannot let its allocations fail")
    script = REPO / "tests" / "child_scripts" / "fails_to_allocate.py"
    env = os.environ | {"PYTHONPATH": PLACES}
    done = subprocess.run(
        [sys.executable, script, random_checkpoint()],
        env=env,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    n_failed = dict(call.split("=") for call in done.stdout.split())
    assert len(n_failed) == 7 and all(int(n) > 0 for n in n_failed.values())
