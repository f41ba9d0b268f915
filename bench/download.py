"""How fast a large file comes from a hub on the loopback, verified, beside huggingface_hub's plain HTTP.

    python bench/download.py [megabytes] [rounds]

Three processes, so that nobody waits for another one's interpreter: the fake hub, and for every round a fresh one for
each client, in turn, with an empty cache. The time is that of the call alone. llamaprobe hashes the file on the way
and syncs it to the disk; huggingface_hub does neither. A second `snapshot` of the cached model, with nobody to ask,
is timed too: milliseconds until the folder is known, its imports included.
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
import os, sys
from fakehub import FakeHub
hub = FakeHub()
block = os.urandom(1 << 20)
hub.add("bench/model", {"config.json": b"{}", "tokenizer.json": b"{}", "model.safetensors": block * int(sys.argv[1])})
print(hub.endpoint, flush=True)
sys.stdin.read()
"""

CLIENTS = {
    "llamaprobe": """
import requests, time
from llamaprobe.hub import download
start = time.perf_counter()
download("bench/model", progress=False)
print(time.perf_counter() - start)
""",
    "huggingface_hub": """
import time
from huggingface_hub import snapshot_download
start = time.perf_counter()
snapshot_download("bench/model")
print(time.perf_counter() - start)
""",
}

AGAIN = """
import time
start = time.perf_counter()
from llamaprobe.hub import snapshot
snapshot("bench/model")
print(time.perf_counter() - start)
"""


def run(code: str, home: str, endpoint: str) -> float:
    """Seconds, as the code prints them."""
    env = os.environ | {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": home,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}",
    }
    result = subprocess.run([sys.executable, "-c", code], env=env, check=True, capture_output=True, text=True)
    return float(result.stdout)


def main() -> None:
    """Prints one line per client, and the whole as JSON."""
    megabytes, rounds = (int(text) for text in (sys.argv[1:] + ["500", "3"][len(sys.argv) - 1 :])[:2])
    env = os.environ | {"PYTHONPATH": str(ROOT / "tests")}
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(megabytes)], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    seconds: dict[str, list[float]] = {name: [] for name in [*CLIENTS, "again"]}
    try:
        endpoint = server.stdout.readline().strip()
        for _ in range(rounds):
            for name, code in CLIENTS.items():
                with tempfile.TemporaryDirectory() as home:
                    seconds[name].append(run(code, home, endpoint))
                    if name == "llamaprobe":
                        seconds["again"].append(run(AGAIN, home, "http://127.0.0.1:9"))
    finally:
        server.stdin.close()
        server.wait(10)
    for name in CLIENTS:
        median = statistics.median(seconds[name])
        print(f"{name:16} {median:6.2f} s  {megabytes * 1.048576 / median:7.0f} MB/s", file=sys.stderr)
    print(f"{'cached, again':16} {statistics.median(seconds['again']) * 1e3:6.1f} ms", file=sys.stderr)
    print(json.dumps({"megabytes": megabytes, "seconds": seconds}))


if __name__ == "__main__":
    main()
