"""Runs many prompts and saves each in a folder of its own, as `Run.save` does: `llamaprobe run
--prompts`.

prompts.json in the folder records everything that decides the files; a folder with another one is
refused, and a prompt whose folder has a manifest is not run again.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ArgumentError, Cancelled, Error, FileError, FormatError
from ..files.json_file import read_object
from ..messages import printable, shown_path
from ..model import Model
from ..origin import ARITHMETIC_VERSION
from ..run import Run
from ..saved.manifest import MANIFEST
from .document import Column, Document, Fault
from .json_out import write_json
from .model_place import numbers_of
from .sources import find_sources

PROMPTS = "prompts.json"
_MAX_BYTES = 1 << 20  # of prompts.json


@dataclass(frozen=True)
class PromptDone:
    """The outcome of one prompt."""

    number: int
    """The number of the prompt, from 0."""
    where: str
    """ "prompts.txt: line 3"."""
    folder: Path
    fault: str | None = None
    """Why the prompt was skipped; None if it was not."""
    is_new: bool = True
    """Whether this call ran the prompt."""


def read_prompts_of(path: Path, column: Column | None) -> list[Document]:
    """The prompts of a file or stdin, without empty lines at the end. Raises as `find_sources`."""
    found = [doc for source in find_sources(path) for doc in source.read(column)]
    while found and found[-1].value == "":
        found.pop()
    if not found:
        raise ArgumentError(f"{shown_path(path)}: holds no prompt")
    return found


def run_prompts(
    model: Model,
    prompts: list[Document],
    out: Path,
    *,
    capture: dict[str, Any],
    save: dict[str, Any],
    on_bad: str = "stop",
) -> Iterator[PromptDone]:
    """Run and save each prompt in the folder out/NUMBER. `capture`: arguments of `Model.run`;
    `save`: of `Run.save`.

    on_bad: "stop" at the first prompt that cannot be run, or "skip" it. Raises Error, whose message
    begins with the prompt's number, and FileError.
    """
    _check_same(model, prompts, out, {"capture": capture, "save": save})
    width = len(str(len(prompts) - 1))
    for number, prompt in enumerate(prompts):
        folder = out / f"{number:0{width}d}"
        if os.path.lexists(folder / MANIFEST):
            yield PromptDone(number, prompt.where, folder, is_new=False)
            continue
        try:
            if isinstance(prompt.value, Fault):
                raise FormatError(prompt.value.reason)
            run: object = model.run(prompt.value, **capture)
            if not isinstance(run, Run):
                raise ArgumentError("is a list of prompts; a line is one prompt")
            run.save(folder, **save | {"force": True})
        except (FileError, Cancelled):  # not the fault of the prompt
            raise
        except Error as error:
            if on_bad == "stop":
                error.reword(
                    f"prompt {number} ({prompt.where}): {error}; --on-bad skip leaves such prompts out"
                )
                raise
            yield PromptDone(number, prompt.where, folder, str(error))
        else:
            yield PromptDone(number, prompt.where, folder)


def _check_same(model: Model, prompts: list[Document], out: Path, options: dict[str, Any]) -> None:
    """ArgumentError if the folder was begun with other prompts, options or another model."""
    digest = hashlib.sha256()
    for prompt in prompts:
        shown = prompt.value.reason if isinstance(prompt.value, Fault) else prompt.value
        shown = shown.tolist() if hasattr(shown, "tolist") else shown
        digest.update(json.dumps([type(prompt.value).__name__, shown]).encode() + b"\n")
    facts = {
        "prompts": {"n": len(prompts), "sha256": digest.hexdigest()},
        "arithmetic_version": ARITHMETIC_VERSION,
        "model": numbers_of(model),
        **options,
    }
    facts = json.loads(json.dumps(facts, default=str))
    path = out / PROMPTS
    if not os.path.lexists(path):
        out.mkdir(parents=True, exist_ok=True)
        write_json(path, facts)
        return
    there = read_object(path, _MAX_BYTES, FormatError)
    for key, value in facts.items():
        if there.get(key) != value:
            shown = printable(json.dumps(there.get(key)), 80)
            raise ArgumentError(
                f"{shown_path(out)}: was begun with other {key} ({shown}); choose another folder"
            )
