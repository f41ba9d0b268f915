"""The files of a tokenizer, as they were when the model was opened.

They are read late: the tokenizer at the first text, the chat template at the first chat. A file
that was changed, replaced, added or removed in between could give other ids, so that is an error.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import Error, FileChangedError
from ..files.fingerprint import REPLACED, file_state, fingerprint
from ..messages import shown_path

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


class TokenizerFiles:
    """The state of NAMES in a folder, which may lack any of them.

    Pickled as the folder and the fingerprints of the files: a copied file has another inode and
    time.
    """

    def __init__(self, folder: str | os.PathLike[str], marks: dict[str, str] | None = None) -> None:
        """`marks`: the `fingerprints` that the files must have when they are first read."""
        self.folder = Path(os.path.abspath(folder))
        """Absolute, whatever directory the process changes to."""
        self._states = {name: file_state(self.folder / name) for name in NAMES}
        self._marks = marks

    def __reduce__(self) -> tuple[Any, ...]:
        marks = self._marks
        if marks is None:
            try:
                marks = self.fingerprints()
            except Error:  # do not fail here: the model can be pickled, its tokenizer not be read
                marks = {name: REPLACED for name, state in self._states.items() if state}
        return type(self), (self.folder, marks)

    @property
    def has_tokenizer(self) -> bool:
        """Whether there was a tokenizer.json."""
        there = self._states if self._marks is None else self._marks
        return there.get("tokenizer.json") is not None

    def state(self, name: str) -> tuple[int, ...] | None:
        """device, inode, size, mtime in ns; None if it was missing."""
        return self._states[name]

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
            for name in NAMES:
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
