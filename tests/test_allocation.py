"""Python's own allocations fail, one after the other, in every call of the C core."""

import os
import subprocess
import sys
from pathlib import Path

import gguf_files
import pytest
from installed import PLACES

REPO = Path(__file__).parent.parent


def test_each_allocation_of_a_call_can_fail(random_checkpoint, tmp_path):
    pytest.importorskip("_testcapi", reason="this Python cannot let its allocations fail")
    script = REPO / "tests" / "child_scripts" / "fails_to_allocate.py"
    env = os.environ | {"PYTHONPATH": PLACES}
    (tmp_path / "whole.gguf").write_bytes(gguf_files.WHOLE)
    done = subprocess.run(
        [sys.executable, script, random_checkpoint(), tmp_path / "whole.gguf"],
        env=env,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    n_failed = dict(call.split("=") for call in done.stdout.split())
    assert len(n_failed) == 9 and all(int(n) > 0 for n in n_failed.values())
