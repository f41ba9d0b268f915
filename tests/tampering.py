"""A saved run that is altered, with hashes made to agree, and what verify reports."""

import copy
import hashlib
import json
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest
import small_tokenizer

import llamaprobe as lp
from llamaprobe.checks.verify import verify_run
from llamaprobe.saved.manifest import write_json

POINTS = ["x", "x_norm", "q", "scores", "pattern", "logits"]


class Folder:
    """A saved run to alter; `close` makes the hashes agree."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.manifest = json.loads((path / "manifest.json").read_text())
        self.fixed: dict[str, dict[str, Any]] = {}  # entries that the manifest keeps nevertheless

    def metas(self) -> list[Path]:
        return sorted(self.path.glob("meta_layer*.json"))

    def change_meta(self, change: Callable[[dict], None], only: str = "") -> None:
        for path in self.metas():
            if path.name.startswith(f"meta_layer{only}"):
                meta = json.loads(path.read_text())
                change(meta)
                write_json(path, meta)  # written as llamaprobe does: only the content differs

    def drop(self, name: str, listed: bool = True) -> None:
        (self.path / name).unlink()
        if not listed:
            del self.manifest["files"][name]

    def of(self, stem: str) -> Path:
        """The file of a value or mask, whatever its format."""
        return next(path for path in self.path.glob(f"{stem}.*"))

    def close(self) -> None:
        files = self.manifest.get("files")
        for name, entry in files.items() if isinstance(files, dict) else ():
            if (self.path / name).exists() and isinstance(entry, dict):
                data = (self.path / name).read_bytes()
                entry |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
                entry |= self.fixed.get(name, {})
        (self.path / "manifest.json").write_text(json.dumps(self.manifest))


def other(value: Any) -> Any:
    """A different value of the same type."""
    match value:
        case bool():
            return not value
        case int():
            return value + 1
        case float():
            return value * 1.0625
        case str():
            return value[:-1] + ("x" if value[-1:] != "x" else "y")
        case list() if value:
            return [*value[:-1], other(value[-1])]
        case dict() if value:
            last = list(value)[-1]
            return value | {last: other(value[last])}
        case dict():
            return {"x": [1]}
    return "x"


def emptied(value: Any) -> Any:
    return {list: [], dict: {}}.get(type(value))


def found(path: Path, model: lp.Model | None) -> list[str]:
    """The faults that verify finds in a run, or its error."""
    try:
        return [f"{c.what}: {c.fault}" for c in verify_run(path, model) if c.fault]
    except lp.Error as error:
        return [str(error)]


def left_out(path: Path, model: lp.Model | None) -> list[str]:
    return [f"{c.what}: {c.note}" for c in verify_run(path, model) if c.note]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> lp.Model:
    config = models.make_config(
        hidden_size=16, intermediate_size=24, num_hidden_layers=2, vocab_size=270, head_dim=8
    )
    folder = tmp_path_factory.mktemp("verify") / "model"
    models.write_checkpoint(folder, config, models.make_weights(config))
    settings = {"bos_token": "<|bos|>", "chat_template": small_tokenizer.TEMPLATE}
    (folder / "tokenizer.json").write_text(json.dumps(small_tokenizer.byte_level()))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return lp.load(folder)


@pytest.fixture(scope="module")
def saved(model: lp.Model, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """saved(format) -> the folder of an honest run, made once."""
    made: dict[str, Path] = {}

    def save(format: str, **how: Any) -> Path:
        key = f"{format}{how}"
        if key not in made:
            made[key] = tmp_path_factory.mktemp("runs") / "run"
            run = model.run("the ab", points=POINTS)
            run.save(made[key], format=format, hash_weights=True, **how)
        return made[key]

    return save


def write_integers(path: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    values = change(lp.read(path).astype(np.int64))
    if path.suffix in (".csv", ".txt"):
        sep = "," if path.suffix == ".csv" else " "
        rows = [sep.join(map(str, row)) for row in values.tolist()]
        path.write_text("\n".join([f"# shape={list(values.shape)}", *rows, ""]))
    else:
        lp.write(path, values)


def write_floats(path: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    first = path.read_bytes().split(b"\n")[0]
    q = re.search(rb"dtype=(q[0-9.]+)", first) if path.suffix == ".hex" else None
    values = np.ascontiguousarray(change(lp.read(path)))
    lp.write(path, values, format=q[1].decode() if q else None)


_STRANGE = [
    *(None, True, False, 0, 1, -1, 2**31, 2**62, 1e308, -0.0, 5e-324, "", "x", "a" * 300, "\0"),
    *([], {}, [None], [[1]], {"a": {}}, [1, 2, 3], "q2.2", "npy", 7, 0.5),
]


def mutate(rng: random.Random, value: Any) -> None:
    """Drops, doubles or replaces a random value in a JSON object."""
    paths = [path for path in _paths(value) if path]
    *parents, last = rng.choice(paths)
    for key in parents:
        value = value[key]
    how = rng.random()
    if how < 0.2:
        del value[last]
    elif how < 0.3 and isinstance(value, list):
        value.append(copy.deepcopy(value[last]))
    else:
        value[last] = copy.deepcopy(rng.choice(_STRANGE))


def _paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    items: Any = value.items() if isinstance(value, dict) else ()
    for key, item in enumerate(value[:3]) if isinstance(value, list) else items:
        yield from _paths(item, (*path, key))
