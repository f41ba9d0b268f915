"""platform.h: a machine that cannot give the right bits is refused by the compiler, in a sentence."""

import os
import platform
import shutil
import subprocess
from pathlib import Path

import pytest

CSRC = Path(__file__).parent.parent / "csrc"
SOURCES = sorted(path for path in CSRC.rglob("*.c") if path.parent.name != "python")

BIG_ENDIAN = ["-U__BYTE_ORDER__", "-D__BYTE_ORDER__=__ORDER_BIG_ENDIAN__"]
FOUR_BYTES = ["-U__SIZEOF_POINTER__", "-D__SIZEOF_POINTER__=4"]
WIDE_FLOATS = ["-U__FLT_EVAL_METHOD__", "-D__FLT_EVAL_METHOD__=2"]

needs_cc = pytest.mark.skipif(not shutil.which("cc"), reason="there is no C compiler")
needs_clang = pytest.mark.skipif(not shutil.which("clang"), reason="clang is missing")


def preprocess(file: Path, *flags: str, cc: str = "cc") -> str:
    """The errors of the compiler for a file; "" when it accepts it."""
    command = [cc, "-E", "-w", *flags, "-o", "/dev/null", str(file)]
    env = os.environ | {"LC_ALL": "C"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    assert (done.returncode == 0) == ("error:" not in done.stderr), done.stderr
    return done.stderr


@needs_cc
def test_this_machine_is_accepted():
    assert "error:" not in preprocess(CSRC / "base/platform.h")


@needs_cc
@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (BIG_ENDIAN, "llamaprobe needs a little-endian CPU: "),
        (["-U__BYTE_ORDER__"], "llamaprobe needs a little-endian CPU: "),
        (FOUR_BYTES, "llamaprobe needs a 64-bit CPU: "),
        (WIDE_FLOATS, "llamaprobe needs float arithmetic in float: "),
        (["-ffast-math"], "llamaprobe cannot be built with -ffast-math: "),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_another_machine_is_refused_in_a_sentence(flags: list[str], sentence: str):
    assert sentence in preprocess(CSRC / "base/platform.h", *flags)


@needs_cc
@pytest.mark.skipif(platform.machine() != "x86_64", reason="-m32 is an option of x86")
def test_a_32_bit_build_is_refused():
    assert "llamaprobe needs a 64-bit CPU: " in preprocess(CSRC / "base/platform.h", "-m32")


@needs_clang
@pytest.mark.parametrize("target", ["s390x-linux-gnu", "powerpc64-linux-gnu", "aarch64_be-linux-gnu"])
def test_a_big_endian_build_is_refused(target: str):
    said = preprocess(CSRC / "base/platform.h", f"--target={target}", cc="clang")
    assert "llamaprobe needs a little-endian CPU: " in said


@needs_cc
@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_every_file_includes_the_platform_check(source: Path):
    assert "error:" not in preprocess(source)
    assert "llamaprobe needs a little-endian CPU: " in preprocess(source, *BIG_ENDIAN)
