"""Child processes that misbehave, each in its way, and what the parent makes of it."""

import os

import pytest
from bad_inputs.child import LIBC, in_child, less_memory

from llamaprobe import _child


def test_wall_clock_ends_a_child_that_sleeps(monkeypatch):
    limits = _child.Limits(cpu_seconds=5, wall_seconds=0.2, memory=1 << 30, reply=1 << 20)
    monkeypatch.setattr(_child, "FOLDER", os.path.dirname(__file__))
    with pytest.raises(_child.ChildError, match="over 0.2 s"):
        _child.call("child_scripts/sleeps.py", {}, packages=(), limits=limits)


@pytest.mark.parametrize(
    ("script", "fact"),
    [
        ("chatters", "over 1048576 bytes"),
        ("dies", "died of SIGSEGV"),
        ("exits", "failed with status 3"),
        ("babbles", "no proper reply"),
    ],
)
def test_child_that_misbehaves(monkeypatch, script, fact):
    limits = _child.Limits(cpu_seconds=5, wall_seconds=60, memory=1 << 30, reply=1 << 20)
    monkeypatch.setattr(_child, "FOLDER", os.path.dirname(__file__))
    with pytest.raises(_child.ChildError, match=fact):
        _child.call(f"child_scripts/{script}.py", {}, packages=(), limits=limits)


def test_missing_package_is_named():
    limits = _child.Limits(1, 1, 1 << 30, 1 << 20)
    with pytest.raises(_child.ChildError, match="pip install no_such_package"):
        _child.call("_render.py", {}, packages=("no_such_package",), limits=limits)


@pytest.mark.skipif(
    not hasattr(LIBC, "mallopt") or hasattr(LIBC, "__asan_init"),
    reason="malloc is not that of the GNU C library",
)
def test_memory_that_was_freed_is_no_room_beyond_a_limit():
    mmap_threshold, mb = -3, 1 << 20

    def work() -> None:
        assert LIBC.mallopt(mmap_threshold, 1 << 30)  # so that free() keeps a large block
        block, above = LIBC.malloc(300 * mb), LIBC.malloc(mb)
        LIBC.free(block)
        with less_memory(64 * mb):
            bytearray(32 * mb)
            bytearray(200 * mb)
        LIBC.free(above)

    assert in_child(work).error is MemoryError
