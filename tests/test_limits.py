"""What the process may use of the machine: affinity, quotas of cgroups, and files larger than memory."""

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest
from bad_inputs.child import in_child
from bad_inputs.weights_file import entry, image

import llamaprobe as lp
from llamaprobe import _core

MB = 1 << 20

# ---- cores and memory ----


@pytest.mark.linux
def test_affinity_is_respected():
    def on_one_core() -> int:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        return _core.cores()

    assert in_child(on_one_core).value == 1
    assert 1 <= _core.cores() <= len(os.sched_getaffinity(0))


def in_cgroup(files: dict[str, str]) -> tuple[int, int]:
    """(cores, memory) that the core reports where /sys/fs/cgroup holds these files and no others.

    A mount namespace of its own makes it so for one process; no real cgroup is touched.
    """
    script = "mount -t tmpfs none /sys/fs/cgroup && cd /sys/fs/cgroup\n"
    for name, text in files.items():
        script += f"mkdir -p $(dirname {name}) && printf -- '{text}' > {name}\n"
    script += 'exec "$0" -c "from llamaprobe import _core; print(_core.cores(), _core.memory())"'
    unshare = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]
    if subprocess.run([*unshare, "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True).returncode:
        pytest.skip("no mount namespace can be made here")
    command = [*unshare, "sh", "-e", "-c", script, sys.executable]
    env = os.environ | {"PYTHONPATH": str(Path(lp.__file__).parent.parent)}
    printed = subprocess.run(command, capture_output=True, text=True, env=env, check=True).stdout
    cores, memory = printed.split()
    return int(cores), int(memory)


STAT = "inactive_file {0}\\nactive_file {0}\\ntotal_inactive_file {0}\\ntotal_active_file {0}\\n".format(5 * MB)
LARGE = str(2**63 - 4096)
CGROUPS: dict[str, tuple[dict[str, str], int | None, int | None]] = {
    # files -> cores, bytes; None: as without any
    "v2": ({"cpu.max": "50000 100000", "memory.max": f"{99 * MB}", "memory.current": f"{60 * MB}",
            "memory.stat": STAT}, 1, 49 * MB),
    "v2 without limits": ({"cpu.max": "max 100000", "memory.max": "max", "memory.current": "1"}, None, None),
    "v2 over its limit": ({"memory.max": f"{9 * MB}", "memory.current": f"{60 * MB}"}, None, 0),
    "v2, a part of a core": ({"cpu.max": "1000 100000"}, 1, None),
    "v1": ({"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "100000",
            "memory/memory.limit_in_bytes": f"{99 * MB}", "memory/memory.usage_in_bytes": f"{60 * MB}",
            "memory/memory.stat": STAT}, 1, 49 * MB),
    "v1 without limits": ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000",
                           "memory/memory.limit_in_bytes": LARGE, "memory/memory.usage_in_bytes": "1"}, None, None),
    "nonsense": ({"cpu.max": "x", "cpu/cpu.cfs_quota_us": "1", "cpu/cpu.cfs_period_us": "0", "memory.max": "",
                  "memory/memory.limit_in_bytes": "y"}, None, None),
}


@pytest.mark.linux
@pytest.mark.skipif(not shutil.which("unshare"), reason="there is no unshare")
@pytest.mark.parametrize("name", CGROUPS)
def test_cgroups_are_respected(name: str):
    files, cores, memory = CGROUPS[name]
    found = in_cgroup(files)
    if cores is None:
        assert found[0] == len(os.sched_getaffinity(0))
    else:
        assert found[0] == cores
    if memory is None:
        assert found[1] > 100 * MB
    else:
        assert found[1] == memory


# ---- models larger than memory ----

IDS = [5, 1, 96, 5, 40]
POINTS = ("x", "pattern", "final_norm", "logits")


def values(folder: Path, **how: Any) -> list[bytes]:
    run = lp.load(folder, **how).run(IDS, points=POINTS, threads=2)
    return [run[point].tobytes() for point in POINTS]


@pytest.mark.linux
@pytest.mark.slow
def test_a_model_too_large_to_copy(tmp_path: Path):
    """RLIMIT_DATA bounds what a process has of its own, not what it maps: 80 MB of weights are run
    in 40 MB; read into memory they do not fit."""
    config = models.make_config(hidden_size=512, intermediate_size=4096, vocab_size=4000)
    weights = models.make_weights(config)
    folder = models.write_checkpoint(tmp_path / "m", config, weights, "F32")
    n_bytes = (folder / "model.safetensors").stat().st_size
    assert n_bytes > 80 * MB
    expected = values(folder)

    def limited(**how: Any) -> Callable[[], Any]:
        def work() -> Any:
            used = 1024 * int(field("/proc/self/status", "VmData"))
            resource.setrlimit(resource.RLIMIT_DATA, (used + 40 * MB,) * 2)
            return values(folder, **how)

        return work

    assert in_child(limited()).value == expected
    ended = in_child(limited(mmap=False))
    assert ended.error is lp.OutOfMemory and "model.safetensors" in ended.message


def field(file: str, key: str) -> str:
    """A number of a /proc file, in kB as they say."""
    lines = dict(line.split(":", 1) for line in Path(file).read_text().splitlines() if ":" in line)
    return lines[key].split()[0]


@pytest.mark.linux
def test_a_file_larger_than_the_machine(tmp_path: Path):
    """The vocabulary is all hole but for its first rows: the file has more bytes than there is
    memory, of which next to none are on the disk."""
    memory = 1024 * sum(int(field("/proc/meminfo", key)) for key in ("MemTotal", "SwapTotal"))
    d_model = 8192 if memory < 30 << 30 else 65536
    vocab_size = memory // (2 * d_model) + 1000
    sizes = {"hidden_size": d_model, "intermediate_size": 64, "num_hidden_layers": 1}
    tied = models.make_config(**sizes, tie_word_embeddings=True)
    weights = models.make_weights(tied)
    if vocab_size > 2097152:
        pytest.skip("no vocabulary that is allowed is larger than the memory of this machine")
    expected = run_first(models.write_checkpoint(tmp_path / "small", tied, weights))
    folder = tmp_path / "large"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(tied | {"vocab_size": vocab_size}))
    write_with_hole(folder / "model.safetensors", weights, vocab_size)
    assert (folder / "model.safetensors").stat().st_size > memory
    assert run_first(folder) == expected
    with pytest.raises(lp.OutOfMemory, match=r"model.safetensors: has \d+ bytes and \d+ are free"):
        lp.load(folder, mmap=False)


def run_first(folder: Path) -> list[bytes]:
    run = lp.load(folder).run(IDS, points=("x", "x_out", "final_norm"))
    return [run[point].tobytes() for point in run.points]


def write_with_hole(path: Path, weights: dict[str, np.ndarray], vocab_size: int) -> None:
    """A checkpoint in bf16 with the embeddings last, their rows continued by zeros."""
    name = "model.embed_tokens.weight"
    ordered = {n: w for n, w in weights.items() if n != name} | {name: weights[name]}
    header, at = {}, 0
    for n, w in ordered.items():
        shape = [vocab_size, w.shape[1]] if n == name else list(w.shape)
        end = at + 2 * int(np.prod(shape, dtype=np.int64))
        header[n] = entry(at, end, "BF16", shape)
        at = end
    with open(path, "wb") as file:
        file.write(image(header))
        start = file.tell()
        for w in ordered.values():
            file.write(models.to_bits(w, "BF16").tobytes())
        file.truncate(start + at)


@pytest.mark.parametrize(
    ("name", "first_line", "n_bytes"),
    [
        ("a.csv", b"# shape=[2000000000]\n", 4 << 30),
        ("a.hex", b"// shape=[1000000000] dtype=float32\n", 9_000_000_000),
        ("a.csv", b"# shape=[9] dtype=int64\n", 4 << 30),
    ],
)
def test_numbers_that_do_not_fit_in_memory(tmp_path, name, first_line, n_bytes):
    """The file is a hole of the right size, so that its shape is believed."""
    (tmp_path / name).write_bytes(first_line)
    os.truncate(tmp_path / name, len(first_line) + n_bytes)
    ended = in_child(lambda: lp.read(tmp_path / name))
    assert ended.error is lp.OutOfMemory and ended.message.startswith(str(tmp_path / name))
