"""The package without what Linux alone has: macOS compiles here and does not run here, so this is its nearest test."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import llamaprobe as lp
from llamaprobe.files import array, atomic

REPO = Path(__file__).parent.parent
# Names that CPython has on Linux and not, or not in every version, on macOS.
LINUX_ONLY = {
    "os": "preadv pwritev posix_fadvise posix_fallocate sched_getaffinity sched_setaffinity memfd_create fdatasync "
    "copy_file_range splice eventfd getrandom pidfd_open getxattr setxattr listxattr removexattr unshare setns pipe2 "
    "waitid getresuid getresgid O_TMPFILE O_PATH O_DIRECT O_LARGEFILE O_NOATIME O_RSYNC POSIX_FADV_DONTNEED",
    "signal": "sigtimedwait sigwaitinfo SIGRTMIN SIGRTMAX SIGPWR SIGPOLL SIGSTKFLT pidfd_send_signal",
    "resource": "prlimit RLIMIT_MSGQUEUE RLIMIT_NICE RLIMIT_RTPRIO RUSAGE_THREAD",
    "select": "epoll EPOLLIN",
    "fcntl": "F_OFD_SETLK F_OFD_SETLKW F_OFD_GETLK F_SETPIPE_SZ F_ADD_SEALS F_NOTIFY",
    "mmap": "MADV_HUGEPAGE MADV_POPULATE_READ MAP_POPULATE MAP_NORESERVE",
    "errno": "EUCLEAN EREMOTEIO ECHRNG EBADFD ENOMEDIUM",
    "time": "CLOCK_BOOTTIME CLOCK_MONOTONIC_COARSE",
}
# Files that read /proc, with what they do where there is none.
READS_PROC = {"files/atomic.py", "perf/machine.py"}

MAIN_JOBS = """
import builtins, importlib, os, pkgutil, sys
for module, names in {linux_only!r}.items():
    module = importlib.import_module(module)
    for name in names.split():
        if hasattr(module, name):
            delattr(module, name)

def without_proc(function):
    def checked(path, *args, **options):
        if isinstance(path, (str, os.PathLike)) and os.fspath(path).startswith(("/proc", "/sys")):
            raise FileNotFoundError(2, "No such file or directory", os.fspath(path))
        return function(path, *args, **options)
    return checked

builtins.open, os.open, os.stat = map(without_proc, (builtins.open, os.open, os.stat))

import numpy as np
import llamaprobe as lp
from llamaprobe.cli.main import main
from llamaprobe.perf.machine import cpu_name

for module in pkgutil.walk_packages(lp.__path__, "llamaprobe."):
    if not module.name.endswith("__main__") and "prompts._" not in module.name:
        importlib.import_module(module.name)

model = lp.load("demo")
run = model.run("Once upon a time", points=("x", "pattern"))
for format in ("csv", "npy", "hex"):
    run.save("as_" + format, format=format)
    assert lp.read_run("as_" + format).equals(run)
chat = model.run([{{"role": "user", "content": "Hi"}}])
assert chat.tokens and model.generate("Once", 3).text
assert np.array_equal(lp.read("as_npy/x_layer1.npy").reshape(run["x", 1].shape), run["x", 1])
lp.export_weights(model, "weights", filter="*layers.0.self_attn*", format="npy")
open("texts.txt", "w").write("Once upon\\nA time\\n")
assert len(lp.harvest(model, "texts.txt", "harvest", points="x:1", progress=False))
assert cpu_name()
assert main(["run", "demo", "Once", "--out", "out", "--quiet"]) == 0
assert main(["verify", "out", "--quiet"]) == 0
print("all done")
"""


@pytest.mark.slow
def test_the_main_jobs_without_what_linux_alone_has(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-c", MAIN_JOBS.format(linux_only=LINUX_ONLY)],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "PYTHONPATH": str(Path(lp.__file__).parent.parent)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.stdout.endswith("all done\n"), done.stdout + done.stderr


def unguarded(program: str) -> list[str]:
    """Linux-only names in a program outside of functions that ask whether there is such a name."""
    found = []
    names = {f"{module}.{name}" for module, each in LINUX_ONLY.items() for name in each.split()}
    tree = ast.parse(program)
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    guarded = {id(node) for each in functions if "hasattr(" in ast.unparse(each) for node in ast.walk(each)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node) in names and id(node) not in guarded:
            found.append(ast.unparse(node))
    return found


def test_linux_only_names_have_another_branch():
    for path in sorted((REPO / "llamaprobe").rglob("*.py")):
        name, text = str(path.relative_to(REPO / "llamaprobe")), path.read_text()
        assert unguarded(text) == [], name
        assert name in READS_PROC or not re.search(r"[\"']/(proc|sys)/", text), name
    assert unguarded("import os\ndef f():\n    return os.sched_getaffinity(0)\n") == ["os.sched_getaffinity"]


def test_a_file_is_read_without_preadv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "a.txt").write_text("1.5 2.5\n")
    expected = lp.read(tmp_path / "a.txt", shape=(2,))
    monkeypatch.delattr("os.preadv", raising=False)
    monkeypatch.setattr(array, "_MAX_READ", 3)
    assert lp.read(tmp_path / "a.txt", shape=(2,)).tolist() == expected.tolist() == [1.5, 2.5]


@pytest.mark.parametrize(
    ("place", "number"),
    [("/dev/fd/1", 1), ("/dev/fd/12", 12), ("/dev/fd/", None), ("/dev/null", None), ("/tmp/dev/fd/1", None)],
)
def test_a_descriptor_below_dev_is_ones_own(place: str, number: int | None):
    """On macOS /dev/fd is no link to /proc."""
    assert atomic._own_descriptor(place) == number


# ---- the tests themselves ----

LINUX = re.compile(
    r"/proc/(?!nowhere)|sched_[gs]etaffinity|/dev/(shm|full)|RLIMIT_(AS|DATA)\b|unshare|/sys/fs|ru_maxrss|libm\.so"
)


def linux_tests(path: Path) -> dict[str, bool]:
    """Tests that use what Linux alone has, themselves or by a name of their module -> whether they say so."""
    body = ast.parse(path.read_text()).body
    parts: dict[str, ast.stmt] = {}
    for node in body:
        names = [each.id for each in getattr(node, "targets", []) if isinstance(each, ast.Name)]
        parts |= dict.fromkeys([*names, getattr(node, "name", "_")], node)
    tainted = {name for name, node in parts.items() if LINUX.search(ast.unparse(node))}
    while True:
        more = {
            name
            for name, node in parts.items()
            if tainted & {n.id if isinstance(n, ast.Name) else getattr(n, "arg", "") for n in ast.walk(node)}
        }
        if more <= tainted:
            break
        tainted |= more
    whole = "pytestmark" in parts and "linux" in ast.unparse(parts["pytestmark"])
    return {
        name: whole or "linux" in "".join(map(ast.unparse, parts[name].decorator_list))  # type: ignore[attr-defined]
        for name in sorted(tainted)
        if name.startswith("test_")
    }


@pytest.mark.parametrize("path", sorted((REPO / "tests").glob("test_*.py")), ids=lambda path: path.name)
def test_tests_for_linux_are_marked(path: Path):
    if path.name in ("test_portable.py", "test_child.py"):  # the latter goes on without /proc
        return
    assert [name for name, is_marked in linux_tests(path).items() if not is_marked] == []
