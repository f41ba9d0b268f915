"""Bad inputs 89, 90, 92 and 95: filters, folders that cannot be written to, hostile token text."""

import contextlib
import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import models
import numpy as np
from small_tokenizer import byte_level, write_folder

import llamaprobe as lp
from bad_inputs import BadInput, Refusal
from bad_inputs.weights_file import image
from llamaprobe import ArgumentError, FileError
from llamaprobe.cli.inspect import describe
from llamaprobe.prompts.tokenizer import Tokenizer


def model(box: Path) -> Path:
    config = models.make_config(vocab_size=265)
    return models.write_checkpoint(box / "m", config, models.make_weights(config))


# ---- 89: filters ----


def export(**choice: Any) -> Callable[[Path], Any]:
    return lambda folder: lp.export_weights(folder, folder.parent / "out", **choice)


def tempting(box: Path) -> Path:
    """One tensor whose name makes a pattern with nested repetition try forever."""
    name = "a" * 60 + "!"
    header = {name: {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}}
    (box / "m.safetensors").write_bytes(image(header))
    return box / "m.safetensors"


def export_and_interrupt(path: Path) -> object:
    """The pattern is the user's own, and so is Ctrl-C."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    try:
        return lp.export_weights(path, path.parent / "out", filter="re:^(a+)+$")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


FILTERS: dict[str, tuple[Any, str]] = {
    "bad pattern": ("re:(", "filter 're:\\('.* regular expression"),
    "no filter": ([3], "neither a string nor a predicate"),
    "matches none": ("q_proj", "filter 'q_proj' matches none of 30 tensors; the first is "),
}
CASES = [
    BadInput("89", name, model, export(filter=given), Refusal(ArgumentError, fact))
    for name, (given, fact) in FILTERS.items()
]
CASES.append(BadInput("89", "pattern that never ends", tempting, export_and_interrupt,
                     Refusal(KeyboardInterrupt, "")))

# ---- 90: where the files go ----


@contextlib.contextmanager
def without_rights(folder: Path) -> Iterator[None]:
    """In a folder, as a user without rights: root may write everywhere."""
    before, user = os.getcwd(), os.geteuid()
    os.chdir(folder)
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)
        os.chdir(before)


def with_out(make: Callable[[Path], Any]) -> Callable[[Path], Path]:
    """A model, and something under the name of the folder that is to be written."""

    def made(box: Path) -> Path:
        box.chmod(0o755)
        make(box / "out")
        return model(box)

    return made


def save(folder: Path) -> list[Path]:
    with without_rights(folder.parent):
        return lp.load(folder.name).run([1, 2, 3]).save("out")


def export_weights(folder: Path) -> list[Path]:
    with without_rights(folder.parent):
        return lp.export_weights(folder.name, "out")


def read_only(path: Path) -> None:
    path.mkdir()
    path.chmod(0o555)


PLACES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "read-only folder": (read_only, "out/.*: Permission denied"),
    "file": (lambda path: path.write_text("mine"), "exists and is not a folder"),
    "link to a file": (lambda path: path.symlink_to("/dev/null"), "exists and is not a folder"),
    "dangling link": (lambda path: path.symlink_to("nowhere"), "exists and is not a folder"),
    "missing in a read-only folder": (lambda path: path.parent.chmod(0o555), "out: Permission denied"),
}
CASES += [
    BadInput("90", f"{use.__name__}: {name}", with_out(make), use, Refusal(FileError, fact, "out"))
    for name, (make, fact) in PLACES.items()
    for use in (save, export_weights)
]

# ---- 47: a folder that may not be searched ----


def locked(box: Path) -> Path:
    box.chmod(0o755)
    (folder := model(box)).chmod(0o600)
    return folder


READERS: dict[str, Callable[[str], Any]] = {
    "load": lp.load,
    "read_run": lp.read_run,
    "export_weights": lambda name: lp.export_weights(name, "out"),
    "inspect": lambda name: describe(Path(name)),
    "Tokenizer.open": Tokenizer.open,
}


def as_stranger(read: Callable[[str], Any]) -> Callable[[Path], Any]:
    def use(folder: Path) -> Any:
        with without_rights(folder.parent):
            return read(folder.name)

    return use


CASES += [
    BadInput("47", f"locked folder: {name}", locked, as_stranger(read), Refusal(FileError, "", "m"))
    for name, read in READERS.items()
]

# ---- 92: a full disk ----

CASES += [
    BadInput("92", f"/dev/full as {format}", lambda box: Path("/dev/full"),
             lambda path, f=format: lp.write(path, np.ones(100_000, np.float32), format=f),
             Refusal(FileError, "^/dev/full: No space left on device$", "/dev/full"))
    for format in ("csv", "txt", "npy")
    if os.path.exists("/dev/full")
]

# ---- 95: token text that a spreadsheet would take for something else ----

HOSTILE_TEXT = '=cmd()"a",\n\r\t;\x1b[31m+1\'-2@x'


def talkative(box: Path) -> Path:
    """Byte-level, so that each of the characters is a token."""
    return write_folder(model(box), byte_level())


def saved_tokens(folder: Path) -> tuple[str, set[str]]:
    """The text as the meta file gives it back, and the first words of every table."""
    lp.load(folder).run(HOSTILE_TEXT).save(folder.parent / "out", force=True)
    out = folder.parent / "out"
    meta = json.loads((out / "meta_layer0.json").read_text())
    lines = [line for path in out.glob("*.csv") for line in path.read_text().splitlines()]
    firsts = {line.partition(",")[0] for line in lines}
    return "".join(meta["tokens"][1:]), {word for word in firsts if not is_number(word)}


def is_number(word: str) -> bool:
    with contextlib.suppress(ValueError):
        float(word)
        return True
    return False


N = len(HOSTILE_TEXT) + 1
CASES.append(
    BadInput("95", "token text", talkative, saved_tokens,
             (HOSTILE_TEXT, {"# shape=[1"}), adds_files=True)
)
