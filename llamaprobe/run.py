"""A finished run: the tokens, and every value that was asked for as an array."""

import contextlib
import copy
import difflib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import __version__, _core, points
from .config import Config
from .errors import ArgumentError, Error, PointError
from .files.fingerprint import Fingerprints, ToldFingerprints
from .files.naming import counted, path_entries, printable
from .prompts.prompt import Prompt, TokenizerSource

ARITHMETIC_VERSION = _core.ARITHMETIC_VERSION  # of docs/arithmetic.md


@dataclass(frozen=True)
class Origin:
    """What a run tells about the model that it came from."""

    config: Config
    model: str
    """As it was asked for: "demo", a folder, a repo id."""
    revision: str | None
    """The commit of a repo."""
    weight_files: tuple[tuple[str, int, str | None], ...]
    """(path, bytes, sha256 where it is known without reading the file)."""
    tokenizer: TokenizerSource
    fingerprints: Fingerprints | ToldFingerprints
    """Of the weight files."""
    folder: str | None = None
    """The absolute path of a folder of the user's own; None for the demo and a repo."""
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


class Run:
    """What `Model.run` gives: `run[point]` and `run[point, layer]` are float32 arrays.

    For T tokens run["x"] is [n_layers, T, d_model] and run["x", 3] layer number 3 of it,
    [T, d_model]; "logits" and the others that are not of a layer have no layer axis. Model.points()
    has all shapes. Names of TransformerLens and Hugging Face modules are understood. Nothing is
    copied: what is written to one of these arrays is seen in all of them. The memory is the run's
    own, also that of one of a batch: it keeps no other run's arrays alive.

    Can be pickled and copied, arrays and all; the tokens travel with it where they are known, else
    they need the model's folder at their first use.
    """

    def __init__(
        self,
        prompt: Prompt,
        values: Mapping[str, tuple[tuple[int, ...], NDArray[np.float32]]],
        origin: Origin,
    ) -> None:
        """`values`: point name -> (layer numbers, array with a leading axis for them); no numbers
        and no such axis for points that are not per layer."""
        self._values = dict(values)
        self._origin = origin
        self._tokens: list[str] | None = None
        self.points: tuple[str, ...] = tuple(values)
        """Names of the points it holds, in the order asked."""
        layers = dict.fromkeys(i for numbers, _ in values.values() for i in numbers)
        self.layers: tuple[int, ...] = tuple(layers)
        """Numbers of the layers it holds, in the order asked."""
        self.token_ids: NDArray[np.int32] = prompt.token_ids
        """int32 [T]."""
        self.position_ids: NDArray[np.int32] = np.arange(len(prompt.token_ids), dtype=np.int32)
        """int32 [T]: 0, 1, ... as RoPE used them."""
        self.prompt: str | None = prompt.text
        """The text that was encoded; for a chat what the template made of it; None for ids."""
        self.template_date: str | None = prompt.date
        """The day that a chat template was told, YYYY-MM-DD; else None."""
        self.template_inputs: dict[str, Any] = dict(prompt.template_inputs)
        """template_vars, tools and continue_final_message of a chat, where they were given."""

    @property
    def config(self) -> Config:
        """The config of the model."""
        return self._origin.config

    @property
    def tokens(self) -> list[str] | None:
        """The text of each token, bytes that are no UTF-8 as \\xNN; None without a tokenizer.

        Opens the tokenizer at first use. Raises TokenizerError when it is damaged.
        """
        if self._tokens is None:
            self._tokens = self._origin.tokenizer.pieces(self.token_ids)
        return self._tokens

    @property
    def weight_files(self) -> tuple[tuple[str, int, str | None], ...]:
        """(path, bytes, sha256 where it is known without reading the file) of the weights."""
        return self._origin.weight_files

    def fingerprint_of(self, path: str) -> str | None:
        """See fingerprint.py; `path` is one of those in `weight_files`."""
        return self._origin.fingerprints.of(path)

    @property
    def arithmetic_version(self) -> int:
        """Which arithmetic (docs/arithmetic.md) computed it: runs of one number have the same
        bits."""
        return self._origin.arithmetic_version

    @property
    def rounded(self) -> tuple[tuple[str, int | None], ...]:
        """(format, digits) of the files that its values were read back from, one after the other,
        where these round; () for a run of a model."""
        return self._origin.rounded

    @property
    def meta(self) -> dict[str, Any]:
        """What redoing the maths takes besides the weights: numbers of the model, the prompt, the
        rotation that was really used. Plain data, new at each call."""
        c = self.config
        return {
            "d_model": c.d_model,
            "num_heads": c.n_heads,
            "num_kv_heads": c.n_kv_heads,
            "n_heads": c.n_heads,
            "n_kv_heads": c.n_kv_heads,
            "head_dim": c.head_dim,
            "d_ff": c.d_ff,
            "rms_norm_eps": c.rms_norm_eps,
            "rmsnorm_eps": c.rms_norm_eps,
            "rope_theta": c.rope_theta,
            "rope_scaling": c.rope_scaling,
            "inv_freq": c.inv_freq.tolist(),
            "attention_scale": c.attention_scale,
            "token_ids": self.token_ids.tolist(),
            "tokens": self.tokens,
            "position_ids": self.position_ids.tolist(),
            "attention_bias": c.attention_bias,
            "qk_norm": c.qk_norm,
            "prompt": self.prompt,
            "template_date": self.template_date,
            **copy.deepcopy(self.template_inputs),
            **path_entries("model", self._origin.model),
            **path_entries("model_folder", self._origin.folder),
            "revision": self._origin.revision,
            "ignore": list(self._origin.ignore),
            "unused_tensors": list(self._origin.unused),
            "arithmetic_version": self.arithmetic_version,
            "llamaprobe_version": self._origin.llamaprobe_version,
        }

    def layers_of(self, point: points.Name) -> tuple[int, ...]:
        """Numbers of the layers that it holds of a point, in the order asked; () for a point that
        is not per layer. PointError."""
        return self._find(point)[1]

    def __getitem__(self, point: points.Name) -> NDArray[np.float32]:
        """run[name] or run[name, layer number]; a negative number counts from the last layer of the
        model. PointError: unknown, or not in this run."""
        name, layers, value, layer = *self._find(point), points.resolve(point)[1]
        if layer is None:
            return value
        layer = points.layer_number(layer, self.config.n_layers)
        if layer not in layers:
            raise PointError(
                f"{name} of layer {layer} was not captured, only of {_numbers(layers)}; request it"
                f" with model.run(..., layers=[{layer}])"
            )
        return value[layers.index(layer)]

    def __contains__(self, point: object) -> bool:
        try:
            self[point]  # type: ignore[index]
        except PointError:
            return False
        return True

    def __len__(self) -> int:
        """How many tokens."""
        return len(self.token_ids)

    def __bool__(self) -> bool:
        return True

    def __iter__(self) -> Any:
        raise TypeError("a Run is not a sequence; iterate over run.points or run.tokens")

    def equals(self, other: "Run") -> bool:
        """Whether both hold the same tokens, points and layers, and every value is the same bit for
        bit (any NaN equals any NaN). `run.equals(lp.read_run(folder))` after `run.save(folder)`.

        Raises ArgumentError when `other` is no Run.
        """
        if not isinstance(other, Run):
            raise ArgumentError(f"a Run can be compared with a Run, not {type(other).__name__}")
        return (
            np.array_equal(self.token_ids, other.token_ids)
            and self.points == other.points
            and all(
                self.layers_of(point) == other.layers_of(point)
                and _same_bits(self[point], other[point])
                for point in self.points
            )
        )

    def save(
        self,
        folder: str | os.PathLike[str],
        *,
        points: points.Name | Sequence[points.Name] | None = None,
        layers: Iterable[int] | None = None,
        format: str = "csv",
        digits: int | str | None = None,
        header: bool = True,
        force: bool = False,
        masks: bool = True,
        hash_weights: bool = False,
    ) -> list[Path]:
        """Write the values into `folder` (made if it is missing), one file for each point and layer,
        and return the paths, the manifest last.

        folder: a leading ~ is expanded. points, layers: some of run.points and run.layers (default
        all); a name with a layer ("blocks.3.attn.hook_z", ("z", 3)) saves that alone, as in
        `Model.run`. header: False leaves out the first line, `# shape=[..]`, of csv, txt and hex,
        for programs that cannot skip it; `read_run` needs none. format: "csv", "txt",
        "npy", "hex" (words for Verilog) or "q<m>.<n>" (fixed point, rounded). digits: of csv and
        txt, None or "shortest" for the shortest decimal that reads back to the same float32 (a NaN
        to some NaN), N for `%.Ne`. masks: attention_mask and position_ids too. hash_weights: read
        the weight files to put their sha256 into the manifest where it is not known without.

        Nothing is written when a file of that name exists and `force` is not given, or when the
        disk lacks the space. With `force` the files of the run that was there go, also those that
        this one does not have, and those of a save that was killed.

        Raises ArgumentError, PointError (a point or layer that this run does not hold), FileError.
        """
        from .saved.run_folder import save_run

        return save_run(
            self,
            folder,
            points=points,
            layers=layers,
            format=format,
            digits=digits,
            header=header,
            force=force,
            masks=masks,
            hash_weights=hash_weights,
        )

    def __getstate__(self) -> dict[str, Any]:
        """The tokens of a text travel: its tokenizer is open now and may not be there later."""
        if self.prompt is not None:
            with contextlib.suppress(Error):
                self.tokens  # noqa: B018 - kept in _tokens
        return self.__dict__

    def __repr__(self) -> str:
        return (
            f"<Run of {printable(self._origin.model)}: {counted(len(self), 'token')},"
            f"{f' layers {_numbers(self.layers)},' if self.layers else ''} points {', '.join(self.points)}>"
        )

    def _find(self, point: points.Name) -> tuple[str, tuple[int, ...], NDArray[np.float32]]:
        name = points.resolve(point)[0].name
        if name not in self._values:
            near = difflib.get_close_matches(name, self.points, 1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise PointError(
                f"{name} was not captured, only {', '.join(self.points)}{hint};"
                f' request it with model.run(..., points=("{name}", ...))'
            )
        return name, *self._values[name]


def _same_bits(a: NDArray[np.float32], b: NDArray[np.float32]) -> bool:
    if a.shape != b.shape:
        return False
    return bool(np.all((a.view(np.uint32) == b.view(np.uint32)) | (np.isnan(a) & np.isnan(b))))


def _numbers(layers: Sequence[int]) -> str:
    """ "0-15", or the numbers one by one."""
    if len(layers) > 2 and list(layers) == list(range(layers[0], layers[-1] + 1)):
        return f"{layers[0]}-{layers[-1]}"
    return ", ".join(map(str, layers))
