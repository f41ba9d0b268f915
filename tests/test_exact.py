"""The same bits whatever runs them: every kernel variant, thread counts, batches, a caller's FTZ.

The digests are those of arithmetic version 1 (docs/arithmetic.md); another one is another version,
and breaks what users have published. One model is tests/models.py's, made from a seed alone, the other is
the demo.
"""

import ctypes
import hashlib
import mmap
import os
import platform
import subprocess
import sys
from pathlib import Path

import models
import numpy as np
import pytest

import llamaprobe as lp

POINTS = ("x", "x_norm", "q_rope", "scores", "pattern", "z", "hidden", "x_out", "logits")
PROMPTS = [[3, 1, 4, 1, 5, 9, 2, 6, 5, 3], [2], list(range(40)), [7] * 9]
RECORDED = {
    "random": "566558e3e145856291f65cf8456ab2f669a9ba8098133f9732f736ceccc88a33",
    "demo": "a2d366799a58bbd74251862ff412845392882fd738cfd69b1576816edaa45149",
}

ONE_RUN = """
import sys
sys.path.insert(0, sys.argv[2])
from test_exact import POINTS, PROMPTS, digest
import llamaprobe as lp
print(digest(lp.load(sys.argv[1]).run(PROMPTS[2], points=POINTS, threads=2)))
"""


@pytest.fixture(scope="module", params=RECORDED)
def recorded(request: pytest.FixtureRequest) -> str:
    return RECORDED[request.param]


@pytest.fixture(scope="module")
def folder(
    recorded: str, demo_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    if recorded == RECORDED["demo"]:
        return demo_folder
    config = models.make_config(
        hidden_size=300, intermediate_size=530, rope_scaling=models.LLAMA3_ROPE
    )
    made = tmp_path_factory.mktemp("exact")
    return models.write_checkpoint(made, config, models.make_weights(config), odd_start=True)


def digest(run: lp.Run) -> str:
    """sha256 of the finite values of every point (a NaN's bits are not defined)."""
    h = hashlib.sha256()
    for point in POINTS:
        values = np.ascontiguousarray(run[point])
        assert not np.isnan(values).any()
        h.update(values.tobytes())
    return h.hexdigest()


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_threads_change_nothing(folder: Path, recorded: str, threads: int):
    assert digest(lp.load(folder).run(PROMPTS[2], points=POINTS, threads=threads)) == recorded


VARIANTS = {variant.name: variant.supported for variant in lp.kernels()}
EMULATED = ("emu16_zen4", "emu16")  # only in builds for tests


@pytest.mark.parametrize("variant", [*EMULATED, *(name for name in VARIANTS if name not in EMULATED)])
def test_every_kernel_variant_gives_the_recorded_bits(folder: Path, recorded: str, variant: str):
    if variant not in VARIANTS:
        pytest.skip("emulated kernels are not in this build: LLAMAPROBE_EMULATED=1 at build time")
    if not VARIANTS[variant]:
        pytest.skip(f"this CPU cannot run {variant}")
    command = [sys.executable, "-c", ONE_RUN, str(folder), str(Path(__file__).parent)]
    env = os.environ | {"LLAMAPROBE_KERNELS": variant}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert (done.stdout.strip(), done.stderr) == (recorded, "")


def test_rejects_a_missing_variant_by_name(folder: Path, monkeypatch: pytest.MonkeyPatch):
    model = lp.load(folder)
    monkeypatch.setenv("LLAMAPROBE_KERNELS", "foo")
    with pytest.raises(lp.ArgumentError, match="LLAMAPROBE_KERNELS=foo: no such kernels"):
        model.run([1, 2])


def test_a_batch_changes_nothing(folder: Path, recorded: str):
    model = lp.load(folder)
    together = model.run(PROMPTS, points=POINTS)
    assert [digest(run) for run in together] == [
        digest(model.run(prompt, points=POINTS)) for prompt in PROMPTS
    ]
    assert digest(together[2]) == recorded


def test_fewer_points_change_nothing(folder: Path):
    model = lp.load(folder)
    run = model.run(PROMPTS[2], points=POINTS)
    for point in POINTS:
        alone = model.run(PROMPTS[2], points=(point,))
        assert np.array_equal(alone[point], run[point]), point
        layer = model.run(PROMPTS[2], points=(point,), layers=[1]) if point != "logits" else alone
        assert np.array_equal(layer[point, 1], run[point, 1]) if point != "logits" else True


@pytest.mark.skipif(platform.machine() != "x86_64", reason="sets the control word of x86-64")
def test_flush_to_zero_of_the_caller_changes_nothing(folder: Path, recorded: str):
    model = lp.load(folder)
    with flush_to_zero():
        assert np.float32(1e-40) * np.float32(1) == 0
        run = model.run(PROMPTS[2], points=POINTS, threads=2)
        assert np.float32(1e-40) * np.float32(1) == 0
    assert digest(run) == recorded


class flush_to_zero:
    """Sets FTZ and DAZ in this thread by two instructions of machine code, and clears them."""

    def __enter__(self) -> None:
        self._load(0x1F80 | 0x8040)

    def __exit__(self, *exc: object) -> None:
        self._load(0x1F80)

    @staticmethod
    def _load(word: int) -> None:
        code = bytes.fromhex("0fae17c3")  # ldmxcsr [rdi]; ret
        page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        page.write(code)
        address = ctypes.addressof(ctypes.c_char.from_buffer(page))
        value = ctypes.c_uint32(word)
        ctypes.CFUNCTYPE(None, ctypes.c_void_p)(address)(ctypes.addressof(value))
