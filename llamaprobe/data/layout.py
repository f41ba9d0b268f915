"""The names of the files of a harvest.

    plan.json                          what is computed: model, options, sources, counts, files
    windows.safetensors                windows of tokens, the rows that they give, shards
    tokens/part-00000.safetensors      the token ids of all documents
    skipped.jsonl                      documents left out, and why
    model.json                         where the model was; not part of the plan
    rows/shard-00000.safetensors       document, start, position and token id of each row
    x.10/shard-00000.safetensors       the values of a point in a layer
    done/shard-00000.json              sidecar of a complete shard: sizes and sha256 of its files
    manifest.json                      all files, and the root; written last

The root is the sha256 over the sorted names and sha256 of plan.json and all safetensors files.
"""

import hashlib
from collections.abc import Mapping

PLAN = "plan.json"
WINDOWS = "windows.safetensors"
SKIPPED = "skipped.jsonl"
MODEL = "model.json"
MANIFEST = "manifest.json"
ROWS = "rows"
TOKENS = "tokens"
DONE = "done"
FORMAT_VERSION = 1  # of this layout; later ones are refused


def part_name(number: int) -> str:
    return f"{TOKENS}/part-{number:05d}.safetensors"


def shard_name(target: str, shard: int) -> str:
    """The file of a shard; `target` is "rows", "x.10", "logits"."""
    return f"{target}/shard-{shard:05d}.safetensors"


def done_name(shard: int) -> str:
    return f"{DONE}/shard-{shard:05d}.json"


def root_of(sha256: Mapping[str, str]) -> str:
    """The root over file name -> sha256."""
    digest = hashlib.sha256()
    for name in sorted(sha256):
        digest.update(f"{name} {sha256[name]}\n".encode())
    return digest.hexdigest()
