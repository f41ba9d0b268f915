"""How fast a large file comes from a hub on the loopback, verified, beside huggingface_hub's plain
HTTP.

    python bench/download.py [megabytes] [rounds]

Three processes, so that none waits for the interpreter of another: the fake hub, and for every
round a fresh one for each client, in turn, with an empty cache. The time is that of the call alone.
llamaprobe hashes the file on the way and syncs it to the disk; huggingface_hub does neither. A
second `snapshot` of the cached model, without a server, is timed too: what it costs until the
folder is known, its imports (as bytecode) included. So is `inspect` of a model that is not here, of
30 shards and 723 tensors as a 70B model has them.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

SERVER = """
import os, sys, tempfile
from pathlib import Path
import models
from fakehub import FakeHub
hub = FakeHub()
block = os.urandom(1 << 20)
files = {"config.json": b"{}", "tokenizer.json": b"{}"}
hub.add("bench/model", files | {"model.safetensors": block * int(sys.argv[1])})
config = models.make_config(num_hidden_layers=80, hidden_size=96)
with tempfile.TemporaryDirectory() as folder:
    shards = Path(folder, "shards")
    models.write_checkpoint(shards, config, models.make_weights(config, 0, "BF16"), "BF16", 30)
    hub.add("bench/shards", {path.name: path.read_bytes() for path in shards.iterdir()})
print(hub.endpoint, flush=True)
sys.stdin.read()
"""

CLIENTS = {
    "llamaprobe": """
import requests, time
from llamaprobe.hub import download
start, cpu = time.perf_counter(), time.process_time()
download("bench/model", progress=False)
print(time.perf_counter() - start, time.process_time() - cpu)
""",
    "huggingface_hub": """
import time
from huggingface_hub import snapshot_download
start, cpu = time.perf_counter(), time.process_time()
snapshot_download("bench/model")
print(time.perf_counter() - start, time.process_time() - cpu)
""",
}

# What a load of a cached model costs more than a load of its folder: the import, and the look-up.
AGAIN = """
import time
import llamaprobe.model
start, cpu = time.perf_counter(), time.process_time()
from llamaprobe.hub import snapshot
snapshot("bench/model")
print(time.perf_counter() - start, time.process_time() - cpu)
"""

INSPECT = """
import time
from llamaprobe.cli.inspect import describe_source
start, cpu = time.perf_counter(), time.process_time()
assert len(describe_source("bench/shards", "main")["tensors"]) == 723
print(time.perf_counter() - start, time.process_time() - cpu)
"""

OTHERS = ("cached, again", "inspect")


def run(code: str, home: str, endpoint: str, bytecode: str) -> tuple[float, float]:
    """Seconds by the clock and of the processor, as the code prints them."""
    env = os.environ | {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": home,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}",
        "PYTHONPYCACHEPREFIX": bytecode,
        "PYTHONDONTWRITEBYTECODE": "",
    }
    result = subprocess.run(
        [sys.executable, "-c", code], env=env, check=True, capture_output=True, text=True
    )
    clock, cpu = map(float, result.stdout.split())
    return clock, cpu


def main() -> None:
    """Prints one line per client, and the whole as JSON."""
    megabytes, rounds = (
        int(text) for text in (sys.argv[1:] + ["500", "3"][len(sys.argv) - 1 :])[:2]
    )
    env = os.environ | {"PYTHONPATH": str(ROOT / "tests")}
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(megabytes)],
        env=env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in [*CLIENTS, *OTHERS]}
    bytecode = tempfile.TemporaryDirectory()
    try:
        endpoint = server.stdout.readline().strip()
        for _ in range(rounds):
            for name, code in CLIENTS.items():
                with tempfile.TemporaryDirectory() as home:
                    seconds[name].append(run(code, home, endpoint, bytecode.name))
                    if name == "llamaprobe":
                        nobody = "http://127.0.0.1:9"
                        seconds["cached, again"].append(run(AGAIN, home, nobody, bytecode.name))
                        seconds["inspect"].append(run(INSPECT, home, endpoint, bytecode.name))
    finally:
        bytecode.cleanup()
        server.stdin.close()
        server.wait(10)
    for name in CLIENTS:
        clock, cpu = (statistics.median(column) for column in zip(*seconds[name], strict=True))
        rate = megabytes * 1.048576 / clock
        print(f"{name:16} {clock:6.2f} s  {rate:6.0f} MB/s  {cpu:5.2f} s CPU", file=sys.stderr)
    for name in OTHERS:
        clock, cpu = (statistics.median(column) for column in zip(*seconds[name], strict=True))
        print(f"{name:16} {clock * 1e3:6.1f} ms {cpu * 1e3:17.1f} ms CPU", file=sys.stderr)
    print(json.dumps({"megabytes": megabytes, "seconds": seconds}))


if __name__ == "__main__":
    main()
