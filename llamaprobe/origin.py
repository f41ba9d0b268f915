"""The facts about its model that a run keeps, also one that was read back from files."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from . import __version__, _core
from .config import Config
from .files.fingerprint import Fingerprints, RecordedFingerprints

ARITHMETIC_VERSION = _core.ARITHMETIC_VERSION  # of docs/arithmetic.md


class TokenTexts(Protocol):
    """The text of token ids: a TokenizerSource, or what was saved with a run."""

    def pieces(self, ids: NDArray[np.integer[Any]]) -> list[str] | None: ...


@dataclass(frozen=True)
class Origin:
    """Of the runs of one model: `Model.origin` and `Run.origin`."""

    config: Config
    model: str
    """As it was requested: "demo", a folder, a repo id."""
    revision: str | None
    """The commit of a repo."""
    weight_files: tuple[tuple[str, int, str | None], ...]
    """(path, bytes, sha256 where it is known without reading the file)."""
    tokenizer: TokenTexts
    fingerprints: Fingerprints | RecordedFingerprints
    """Of the weight files."""
    folder: str | None = None
    """The absolute path of a folder of the user's own; None for the demo and a repo."""
    file: str | None = None
    """Of a model in GGUF: its first file, by its path below the folder."""
    quantization: Mapping[str, Any] | None = None
    """`Quantization.entry` of a quantised model."""
    ignore: tuple[str, ...] = ()
    """The globs of `load(ignore=)`."""
    unused: tuple[str, ...] = ()
    """Tensors of the weight files that no operation uses, see `Model.unused`."""
    llamaprobe_version: str | None = __version__
    """Of what computed the run."""
    arithmetic_version: int = ARITHMETIC_VERSION
    """See `Run.arithmetic_version`."""
    rounded: tuple[tuple[str, int | None], ...] = ()
    """(format, digits) of the folders with rounded values that the run was read back from."""

    @property
    def shown(self) -> str:
        """`model`, with the file of a GGUF that was chosen from a folder or a repo."""
        if self.file is None or os.path.basename(self.model) == os.path.basename(self.file):
            return self.model
        return os.path.join(self.model, self.file)
