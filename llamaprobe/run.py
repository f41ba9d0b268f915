"""A finished run: the tokens, and every requested value as an array."""

import contextlib
import copy
import difflib
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import points
from .arguments import choice
from .captures import BEFORE, without_before
from .checkpoint.quantization import quantization_entry
from .config import Config
from .edits.edits import Edits
from .errors import ArgumentError, Error, PointError
from .families.meta import family_meta
from .files.paths import path_entries
from .messages import counted, printable
from .origin import Origin
from .prompts.prompt import Prompt
from .saved.generated import Generated
from .saved.run_folder import plan_run
from .views.methods import RunViews
from .views.run import Tokens, numbers, run_text


class Run(RunViews):
    """The result of `Model.run`: `run[point]` and `run[point, layer]` are float32 arrays.

    For T tokens run["x"] is [n_layers, T, d_model] and run["x", 3] layer number 3 of it,
    [T, d_model]; points outside of the layers, such as "logits", have no layer axis. Model.points()
    has all shapes. Names of TransformerLens and Hugging Face modules are understood. The arrays are
    views, so a write to one is seen in the others. Each run of a batch has memory of its own, which
    keeps no other run's arrays alive.

    Can be pickled and copied with its arrays, and with its tokens where they are known; else they
    need the model's folder at first use.
    """

    def __init__(
        self,
        prompt: Prompt,
        values: Mapping[str, tuple[tuple[int, ...], NDArray[np.float32]]],
        origin: Origin,
        rope_length: int | None = None,
        edits: Edits | None = None,
    ) -> None:
        """`values`: point name -> (layer numbers, array with a leading axis for them); () and no
        such axis for points that are not per layer."""
        self._values = dict(values)
        self._tokens: Tokens | None = None
        self.rope_length = rope_length
        """As given to `Model.run`."""
        self.edits: Edits = (Edits() if edits is None else edits)._made()
        """Those that were made, with absolute positions; each has `n_changed`."""
        self.saved_in: str | None = None
        """The absolute path of the folder that it was read from."""
        self.origin = origin
        """The facts about its model."""
        self.points: tuple[str, ...] = tuple(values)
        """Names of its points, in the order requested."""
        layers = dict.fromkeys(i for numbers, _ in values.values() for i in numbers)
        self.layers: tuple[int, ...] = tuple(layers)
        """Numbers of its layers, in the order requested."""
        self.token_ids: NDArray[np.int32] = prompt.token_ids
        """int32 [T]."""
        self.position_ids: NDArray[np.int32] = np.arange(len(prompt.token_ids), dtype=np.int32)
        """int32 [T]: 0, 1, ... as RoPE used them."""
        self.prompt: str | None = prompt.text
        """The text that was encoded, for a chat the rendered one; None for ids."""
        self.template_date: str | None = prompt.date
        """The date that a chat template saw, YYYY-MM-DD; else None."""
        self.template_inputs: dict[str, Any] = dict(prompt.template_inputs)
        """template_vars, tools and continue_final_message of a chat, where they were given."""

    @property
    def config(self) -> Config:
        """The config of the model."""
        return self.origin.config

    @property
    def tokens(self) -> list[str] | None:
        """The text of each token, bytes that are not UTF-8 as \\xNN; None without a tokenizer.

        Opens the tokenizer at first use. Raises TokenizerError when it is damaged.
        """
        if self._tokens is None:
            texts = self.origin.tokenizer.pieces(self.token_ids)
            self._tokens = None if texts is None else Tokens(texts)
        return self._tokens

    @property
    def weight_files(self) -> tuple[tuple[str, int, str | None], ...]:
        """(path, bytes, sha256 if known without reading the file) of the weights."""
        return self.origin.weight_files

    def fingerprint_of(self, path: str) -> str | None:
        """sha256, in hex, of the size and of samples of a weight file as it was when it was opened;
        `path` is one of `weight_files`. ArgumentError."""
        paths = [each for each, *_ in self.weight_files]
        return self.origin.fingerprints.of(choice("path", path, paths))

    @property
    def arithmetic_version(self) -> int:
        """The version of docs/arithmetic.md: runs of the same version have the same bits."""
        return self.origin.arithmetic_version

    @property
    def rounded(self) -> tuple[tuple[str, int | None], ...]:
        """(format, digits) of each rounding file format that its values passed through."""
        return self.origin.rounded

    @property
    def generated(self) -> Generated | None:
        """How its new tokens were chosen; None for a run of `Model.run`."""
        return None

    @property
    def meta(self) -> dict[str, Any]:
        """All that recomputing the run needs besides the weights: numbers of the model, the prompt,
        the rotation really used. Plain data, a new copy at each call."""
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
            "tokens": None if self.tokens is None else list(self.tokens),
            "position_ids": self.position_ids.tolist(),
            "attention_bias": c.attention_bias,
            "qk_norm": c.qk_norm,
            **family_meta(c),
            **({} if self.rope_length is None else {"rope_length": self.rope_length}),
            **({"edited": True} if self.edits else {}),
            "prompt": self.prompt,
            "template_date": self.template_date,
            **copy.deepcopy(self.template_inputs),
            **path_entries("model", self.origin.model),
            **path_entries("model_folder", self.origin.folder),
            "revision": self.origin.revision,
            **({} if self.origin.file is None else {"model_file": self.origin.file}),
            **quantization_entry(self.origin.quantization),
            "ignore": list(self.origin.ignore),
            "unused_tensors": list(self.origin.unused),
            "arithmetic_version": self.arithmetic_version,
            "llamaprobe_version": self.origin.llamaprobe_version,
        }

    def layers_of(self, point: points.Name) -> tuple[int, ...]:
        """The layers that it has of a point, in the order requested; () for a point that is not per
        layer. PointError."""
        return self._find(point)[1]

    def dims(self, point: points.Name) -> tuple[str, ...]:
        """The names of the axes of run[point]: ("layer", "head", "token", "key"). PointError."""
        self._find(point)
        plain = point.removesuffix(".before") if isinstance(point, str) else point
        return points.dims(points.resolve(plain, self.config)[0], self.config)

    def __getitem__(self, point: points.Name) -> NDArray[np.float32]:
        """run[name] or run[name, layer number]; a negative number counts from the last layer of the
        model. PointError: unknown, or not in this run."""
        name, layers, value = self._find(point)
        layer = points.resolve(without_before(point)[0], self.config)[1]
        if layer is None:
            return value
        layer = points.layer_number(layer, self.config.n_layers)
        if layer not in layers:
            raise PointError(
                f"{name} of layer {layer} was not captured, only of {numbers(layers)}; request it"
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
        """The number of tokens."""
        return len(self.token_ids)

    def __bool__(self) -> bool:
        return True

    def __iter__(self) -> Any:
        raise TypeError("a Run is not a sequence; iterate over run.points or run.tokens")

    def equals(self, other: "Run") -> bool:
        """Whether both hold the same tokens, points and layers, and every value is the same bit for
        bit (any NaN equals any NaN). `run.equals(lp.read_run(folder))` after `run.save(folder)`.

        Raises ArgumentError when `other` is not a Run.
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
        """Write the values into `folder` (made if it is missing), one file for each point and
        layer, and return the paths, the manifest last.

        folder: a leading ~ is expanded. points, layers: some of run.points and run.layers (default
        all); a name with a layer ("blocks.3.attn.hook_z", ("z", 3)) saves that alone, as in
        `Model.run`. header: False leaves out the first line, `# shape=[..]`, of csv, txt and hex,
        for programs that cannot skip it; `read_run` needs none. format: "csv", "txt",
        "npy", "hex" (words for Verilog) or "q<m>.<n>" (fixed point, rounded). digits: of csv and
        txt, None or "shortest" for the shortest decimal that reads back to the same float32 (a NaN
        to some NaN), N for `%.Ne`. masks: attention_mask and position_ids too. hash_weights: read
        the weight files to put their sha256 into the manifest where it is not known without.

        Nothing is written when a file of that name exists and `force` is not given, or when the
        disk lacks the space. With `force` all files of the previous run in the folder are removed,
        also those of a save that was killed.

        Raises ArgumentError, PointError (a point or layer that this run does not hold), FileError.
        """
        return plan_run(
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
        ).write()

    def __getstate__(self) -> dict[str, Any]:
        """Keeps the tokens of a text: its tokenizer may be missing later."""
        if self.prompt is not None:
            with contextlib.suppress(Error):
                self.tokens  # noqa: B018 - kept in _tokens
        return self.__dict__

    def __repr__(self) -> str:
        layers = f" layers {numbers(self.layers)}," if self.layers else ""
        names = f"points {', '.join(self.points)}" if self.points else "no points"
        head = f"<Run of {printable(self.origin.shown)}: {self._length()},"
        return run_text(self, f"{head}{layers} {names}>")

    def _length(self) -> str:
        """For `repr`."""
        return counted(len(self), "token")

    def _find(self, point: points.Name) -> tuple[str, tuple[int, ...], NDArray[np.float32]]:
        plain, before = without_before(point)
        name = points.resolve(plain, self.config)[0].name + BEFORE * before
        if name not in self._values:
            near = difflib.get_close_matches(name, self.points, 1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            held = f"only {', '.join(self.points)}" if self.points else "the run holds no values"
            raise PointError(
                f"{name} was not captured, {held}{hint};"
                f' request it with model.run(..., points=("{name}", ...))'
            )
        return name, *self._values[name]


def _same_bits(a: NDArray[np.float32], b: NDArray[np.float32]) -> bool:
    if a.shape != b.shape:
        return False
    return bool(np.all((a.view(np.uint32) == b.view(np.uint32)) | (np.isnan(a) & np.isnan(b))))
