"""The files of a tokenizer, as they were when the model was opened.

They are read late: the tokenizer at the first text, the chat template at the first chat. A file
that was changed, replaced, added or removed in between could give other ids, so that is an error.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import Error, FileChangedError, TokenizerError
from ..files.atomic import no_such
from ..files.fingerprint import REPLACED, file_state, fingerprint
from ..files.json_file import MAX_FILE, find_file, parse_object
from ..files.paths import checked_path
from ..messages import shown_path
from .declarations import Declarations
from .template import Template

NAMES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "config.json",
    "chat_template.jinja",
    "chat_template.json",
    "additional_chat_templates/tool_use.jinja",
)
_OTHER_FILES = ("tokenizer.model", "tekken.json", "spiece.model", "tiktoken.model", "vocab.json")


class Contents(NamedTuple):
    """What a tokenizer is made of."""

    spec: dict[str, Any]
    """tokenizer.json."""
    data: bytes
    """The same as text."""
    declared: Declarations
    refusal: str = ""
    """Why no text can be encoded; ids can be decoded."""


class TokenizerFiles:
    """The state of the files of a tokenizer in a folder, which may lack any of them.

    Pickled as the folder and the fingerprints of the files: a copied file has another inode and
    time.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        marks: dict[str, str] | None = None,
        names: tuple[str, ...] = NAMES,
    ) -> None:
        """`marks`: the `fingerprints` that the files must have when they are first read."""
        self.folder = Path(os.path.abspath(checked_path(folder)))
        """Absolute, whatever directory the process changes to."""
        self._states = {name: file_state(self.folder / name) for name in names}
        self._marks = marks

    def __reduce__(self) -> tuple[Any, ...]:
        marks = self._marks
        if marks is None:
            try:
                marks = self.fingerprints()
            except Error:  # do not fail here: the model can be pickled, its tokenizer not be read
                marks = {name: REPLACED for name, state in self._states.items() if state}
        return type(self), self._arguments(marks)

    def _arguments(self, marks: dict[str, str]) -> tuple[Any, ...]:
        """Those of a copy with these `marks`."""
        return self.folder, marks

    @property
    def path(self) -> Path:
        """The file of the vocabulary."""
        return self.folder / "tokenizer.json"

    @property
    def has_tokenizer(self) -> bool:
        """Whether there was a tokenizer.json."""
        there = self._states if self._marks is None else self._marks
        return there.get("tokenizer.json") is not None

    def read(self) -> Contents:
        """TokenizerError (no tokenizer, damaged), FileError."""
        data = find_file(self.path, MAX_FILE, TokenizerError)
        if data is None:
            if not os.path.isdir(self.folder):
                raise no_such(self.folder, "no such folder")
            raise TokenizerError(
                f"{shown_path(self.folder)}:"
                f" no tokenizer.json, so no text and no chat; token ids still work{self._other()}"
            )
        spec = parse_object(data, self.path, TokenizerError, strict=False)
        return Contents(spec, data, Declarations.of(self.folder, spec, data))

    def _other(self) -> str:
        """The way out where the vocabulary is in another file."""
        names = [name for name in _OTHER_FILES if os.path.isfile(self.folder / name)]
        if not names:
            return ""
        return (
            f". {names[0]} is not read; transformers converts it:"
            " AutoTokenizer.from_pretrained(folder).save_pretrained(folder)"
        )

    def source(self) -> dict[str, Any]:
        """Where a child process finds tokenizer.json: see `_encode.prepare`."""
        return {"path": str(self.path), "state": self._states[self.path.name]}

    def template(self, tools: bool, tokens: dict[str, str]) -> Template:
        """The chat template, as `Template.find`."""
        return Template.find(self.folder, tools=tools, tokens=tokens)

    @contextlib.contextmanager
    def unchanged(self) -> Iterator[None]:
        """Around reading: FileChangedError when a file has changed, even if it caused another error."""
        try:
            yield
        except Error:
            self.check()
            raise
        self.check()

    def fingerprints(self) -> dict[str, str]:
        """Of the files that exist, by name. FileChangedError, FileError."""
        with self.unchanged():
            return self._fingerprints()

    def _fingerprints(self) -> dict[str, str]:
        there = [name for name, state in self._states.items() if state is not None]
        return {name: fingerprint(self.folder / name) for name in there}

    def check(self) -> None:
        """FileChangedError when a file has changed."""
        self._check_states()
        if self._marks is not None:
            found = self._fingerprints()
            self._check_states()
            for name in self._states:
                before, now = self._marks.get(name), found.get(name)
                if now != before:
                    fact = "is not the file that was pickled"
                    if now is None or before is None:
                        fact = f"is {'not there' if now is None else 'there'}, unlike when pickled"
                    raise FileChangedError(
                        f"{self.folder / name}: {fact}; load the model again",
                        None,
                        self.folder / name,
                    )
            self._marks = None  # from here on the states suffice

    def _check_states(self) -> None:
        for name, before in self._states.items():
            now = file_state(self.folder / name)
            if now != before:
                fact = "appeared" if before is None else "is gone" if now is None else "changed"
                raise FileChangedError(
                    f"{shown_path(self.folder / name)}: {fact} since the model was opened; load the"
                    " model again",
                    None,
                    self.folder / name,
                )
