"""A model: opened by `load`, run by `Model.run`.

Opening reads headers only; the weights are used in place, in their mapped files. A model never
changes, so that any number of threads may run it at once.
"""

import datetime
import math
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypedDict, Unpack, overload

import numpy as np
from numpy.typing import NDArray

from . import _core, log, stderr
from .arguments import flag, is_whole, whole
from .cancel import Cancel, Stop
from .captures import Capture, captures_of
from .checkpoint.folder import Checkpoint, named
from .checkpoint.opening import (
    Opening,
    check_weights_as,
    describe_files,
    first_layers,
    open_core,
    open_files,
)
from .checkpoint.quantization import Quantization, brief
from .checkpoint.tensor_names import read_globs
from .checkpoint.weights import Weights, gain_notes
from .config import Config, tensors
from .edits.edits import Edits
from .edits.resolve import Bound, Call, bind_all
from .errors import ArgumentError
from .families.rope import checked_length
from .files.fingerprint import Fingerprints, check_fingerprint, not_as_pickled
from .files.paths import expand_user
from .generation.methods import Generates, OnePrompt, PromptList
from .lens.methods import LensMethods
from .messages import printable
from .origin import Origin
from .perf.machine import thread_count
from .perf.profile import Profile, Stage
from .plan import Plan, plan_of
from .points import DEFAULT_POINTS, Layers, ModelPoints, Name
from .points import shape as shape_of
from .prompts.chat import ChatOptions
from .prompts.prompt import Prompt, TokenizerSource, read_prompt, read_prompts
from .prompts.tokenizer import Tokenizer
from .run import Run
from .source import choose_gguf, find_folder, open_gguf_of, split_file, tokenizer_files, whole_path
from .sweeps.methods import Sweeps


class RunOptions(TypedDict, total=False):
    """The arguments of `Model.run` besides the prompt; see there."""

    points: str | Iterable[Name]
    layers: Layers
    threads: int | None
    progress: bool
    date: str | datetime.date | None
    add_generation_prompt: bool | None
    template_vars: Mapping[str, Any] | None
    tools: Sequence[Mapping[str, Any]] | None
    continue_final_message: bool | str
    rope_length: int | None
    edits: Edits | Sequence[Edits | None] | None
    timeout: float | None
    cancel: Cancel | None


def load(
    source: str | os.PathLike[str],
    *,
    revision: str = "main",
    token: str | bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    threads: int | None = None,
    mmap: bool = True,
    layers: int | range | None = None,
    ignore: str | Iterable[str] = (),
    file: str | None = None,
    weights_as: str = "float32",
) -> "Model":
    """Open a model.

    source: "demo" (the one that comes with the package), a folder with config.json and
        safetensors, a .gguf file or a folder with one, or a repo id of the hub, "owner/name". A
        folder that exists wins over a repo id of the same name.
    revision, token, cache_dir, local_files_only: for a repo id; see `download`.
    threads: how many a run uses unless it says otherwise. Default: LLAMAPROBE_NUM_THREADS, else
        all cores that the process may use.
    mmap: False reads the weights into memory, independent of later changes to the files.
    layers: open only the first layers, as a number, 4, or range(4). Of a sharded model only their
        shards are needed, and those of embeddings, last norm and head. The values of these layers
        are those of the whole model; `final_*` and `logits` belong to a model that was never
        trained.
    ignore: globs over names of tensors that no operation uses and that are to be ignored, such as
        "*.q_norm.weight". Without one, such a tensor in a part that is run (a bias whose flag is
        not set, `lm_head.bias`, a part of a LoRA) is an error, because config.json then describes
        another model; elsewhere (layers beyond num_hidden_layers, a vision tower) it is a warning
        and listed in `Model.unused`.
    file: which model in GGUF of a folder or a repo, as the name of its file or a glob that one
        matches, "*Q4_K_M*"; any part of a split stands for all. Without it safetensors win.
    weights_as: of quantised weights. "float32": the values that their codes mean; "bf16": these
        rounded to bf16, as many kernels compute. Others are used as they are.

    The folder is made absolute: a later `os.chdir` changes nothing.

    Raises FileError (no such folder, no weights), ConfigError, FormatError (broken or contradictory
    files), UnsupportedError (well formed, but cannot be run exactly), HubError, ArgumentError.
    """
    if threads is not None:
        thread_count(threads)
    n_layers = None if layers is None else first_layers(layers)
    globs = read_globs(ignore)
    check_weights_as(weights_as)
    mmap = flag("mmap", mmap)
    part: dict[str, Any] = {} if n_layers is None else {"layers": range(n_layers), "head": True}
    place, file = split_file(source, file)
    part |= {} if file is None else {"file": file}
    folder, commit = find_folder(
        place,
        revision,
        token=token,
        cache_dir=cache_dir,
        local_files_only=local_files_only,
        **part,
    )
    name = expand_user(os.fspath(source))
    is_own = isinstance(place, os.PathLike) or (source != "demo" and os.path.isdir(name))
    folder = whole_path(folder)
    file = choose_gguf(folder, file)
    how = (threads, mmap, n_layers, globs, file, weights_as)
    return open_model(Opening(name, folder, is_own, commit, *how))


def open_model(opening: Opening) -> "Model":
    """`load` with a known folder. Raises as `load`."""
    config, checkpoint, unused = open_files(opening, open_gguf_of)
    log.info("%s: opened from %s, %d layers", opening.name, checkpoint.folder, config.n_layers)
    return Model(config, checkpoint, opening, unused)


class Model(Generates, LensMethods, Sweeps):
    """An open model, made by `load`. Any number of threads may use it at once.

    Also a context manager: `with load(...) as model`.

    Pickled and copied as the place of its files: "demo", the absolute path of a folder, a repo id
    with its commit; with the options of `load` (never a token) and fingerprints of the files. It is
    unpickled without the network and needs the same files there: else OfflineError,
    FileChangedError, or an error of `load`. A closed model cannot be pickled (ArgumentError).
    """

    def __init__(
        self, config: Config, checkpoint: Checkpoint, opening: Opening, unused: tuple[str, ...]
    ) -> None:
        self.config = config
        """All numbers of the model besides the weights."""
        self.path: Path = checkpoint.folder
        """The folder that it was opened from, absolute."""
        self.ignore: tuple[str, ...] = opening.ignore
        """The globs of `load(ignore=)`."""
        self.unused: tuple[str, ...] = unused
        """Names of tensors in the opened files that no operation uses, in the order of the files,
        whether `load` warned about them or `ignore` matches them; without leftover buffers of
        rotary embeddings and layers that `load(layers=)` left out."""
        self.quantization: Quantization | None = checkpoint.quantization
        """How its weights are stored, where they are quantised or in GGUF; else None."""
        self._core: _core.Model | None = open_core(config, checkpoint)
        self._checkpoint: Checkpoint | None = checkpoint
        self._opening = opening
        self._tokenizer = TokenizerSource(tokenizer_files(checkpoint))
        files = tuple(describe_files(checkpoint))
        self.fingerprints = Fingerprints(path for path, *_ in files)
        """Of the weight files, by path."""
        self.origin = Origin(
            config=config,
            model=opening.name,
            revision=opening.commit,
            weight_files=files,
            tokenizer=self._tokenizer,
            fingerprints=self.fingerprints,
            folder=str(checkpoint.folder) if opening.is_own else None,
            file=opening.file,
            quantization=None if self.quantization is None else self.quantization.entry(),
            ignore=opening.ignore,
            unused=unused,
        )
        """The facts that its runs keep."""

    @property
    def weights(self) -> Weights:
        """Tensor name -> Weight: `numpy.asarray(model.weights["model.norm.weight"])` is float32.

        Raises ArgumentError when the model is closed.
        """
        if self._checkpoint is None:
            raise self._closed()
        return Weights(self._checkpoint, self.config.tied_head, gain_notes(self.config))

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the model: `encode`, `decode`, `pieces`, `chat`, `vocab_size`.

        Opened at first use, from the files as they were when the model was loaded; a closed model
        has it too. Raises TokenizerError (missing or damaged), FileError, FileChangedError (a file
        changed, appeared or is gone).
        """
        return self._tokenizer.get()

    @property
    def n_params(self) -> int:
        """The number of parameters: of the open layers, a tied head counted once."""
        return sum(
            math.prod(shape) * (self.config.n_layers if per_layer else 1)
            for _, shape, _, per_layer in tensors(self.config)
        )

    points = ModelPoints()
    """`model.points()`: its capture points in the order of computation: shape, formula and aliases;
    `Model.points()`: those of a Llama."""

    @overload  # a str is a sequence of str too: the first that fits counts
    def run(  # type: ignore[overload-overlap]
        self, prompt: OnePrompt, **how: Unpack[RunOptions]
    ) -> Run: ...
    @overload
    def run(self, prompt: PromptList, **how: Unpack[RunOptions]) -> list[Run]: ...
    @overload
    def run(self, prompt: object, **how: Unpack[RunOptions]) -> Run | list[Run]: ...
    def run(
        self,
        prompt: object,
        *,
        points: str | Iterable[Name] = DEFAULT_POINTS,
        layers: Layers = None,
        threads: int | None = None,
        progress: bool = False,
        date: str | datetime.date | None = None,
        add_generation_prompt: bool | None = None,
        template_vars: Mapping[str, Any] | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        continue_final_message: bool | str = False,
        rope_length: int | None = None,
        edits: Edits | Sequence[Edits | None] | None = None,
        timeout: float | None = None,
        cancel: Cancel | None = None,
    ) -> Run | list[Run]:
        """Run a prompt and keep every requested value: a Run; for a batch a list of them.

        prompt: text; token ids (integers in a list, a range, or what NumPy makes a 1-D array of,
            such as a tensor); chat messages (a list of dicts with "role" and "content"); or a list
            of these, a batch: its prompts may differ in length, there is no padding, and each gives
            the same bits as alone. A generator, an array or a Series of texts is a batch too. The
            output of a tokenizer of transformers counts as its input_ids.
        points: names, see `Model.points`; "all" for every point, "x*" for those whose name matches.
            Names of TransformerLens and Hugging Face modules are understood; one with a layer
            ("blocks.3.attn.hook_z", ("z", 3)) requests that layer alone. "z.before" is z before the
            edits of it.
        layers: which layers, in the order in which run[point] stacks them: a number, numbers, a
            range or a slice; negative numbers count from the last layer. None for all.
        threads: see `load`. The number of threads never changes a result.
        progress: show a bar on stderr.
        date: for chat messages, as the next four: the date that the template sees. None for
            26 Jul 2024, "today", a datetime.date or YYYY-MM-DD.
        add_generation_prompt: begin an answer. None: yes, unless continue_final_message.
        template_vars: further variables of the template by name, {"enable_thinking": False}.
        tools: JSON schemas of functions, as dicts.
        continue_final_message: the text ends with the last message, for the model to continue; a
            str names a field other than "content".
        rope_length: of a model with LongRoPE, the number of tokens that chooses between its two
            tables for each prompt, such as that of a prompt and its answer. None: the prompt's own.
        edits: see `Edits`; of a batch those of all prompts, or a list with an entry, or None, for
            each.
        timeout: seconds that the call may take, prompts included, before it raises Timeout.
        cancel: a `Cancel`; after its `set`, in any thread, the call raises Cancelled.

        Values that are not requested cost no memory, and nothing after the last value needed is
        computed. Each run of a batch has its own memory, which is freed with the run. Ctrl-C
        (KeyboardInterrupt), `timeout` and `cancel` stop a run within about 50 ms and leave the
        model usable.

        Raises ArgumentError (an empty or too long prompt, an id outside the vocabulary), PointError
        (an unknown point or layer), EditError (an edit that cannot be made or does nothing, before
        anything is computed; a query without a key, while it is), TokenizerError, TemplateError,
        OutOfMemory (before anything is computed), FileChangedError (the weights were written to
        since they were opened), Timeout, Cancelled. The message for one prompt of a batch begins
        with its number, from 0, and its first words: "prompt 1 of 3 ('Once upon'): ...".
        """
        stop = Stop(timeout, cancel)
        core = self._open()
        captures = captures_of(points, layers, self.config)
        n_threads = self._n_threads(threads)
        chat = ChatOptions(
            date, add_generation_prompt, template_vars, tools, continue_final_message
        )
        prompts, is_batch = self._read(prompt, chat, stop)
        ids, starts = _joined(prompts)
        lengths = [len(one.token_ids) for one in prompts]
        bounds = bind_all(edits, self.config, lengths, is_batch, captures)
        n_prompts = len(prompts) if is_batch else None
        call = Call(bounds, [0] * len(prompts), lengths, n_prompts=n_prompts)
        log.debug("run: %d prompts, %d tokens, %d threads", len(prompts), len(ids), n_threads)
        with named(self.path), call.named(), stderr.bar(progress) as report:
            arrays = core.run(
                ids,
                starts,
                [capture.numbers for capture in captures],
                n_threads=n_threads,
                progress=stop.then(report),
                rope_length=checked_length(rope_length),
                edits=call.items or None,
                changed=call.changed if call.items else None,
            )
        call.count()
        runs = self._runs(prompts, captures, arrays, rope_length, bounds)
        return runs if is_batch else runs[0]

    def profile(
        self,
        prompt: object,
        *,
        points: str | Iterable[Name] = DEFAULT_POINTS,
        layers: Layers = None,
        threads: int | None = None,
        rope_length: int | None = None,
        timeout: float | None = None,
        cancel: Cancel | None = None,
    ) -> Profile:
        """Run one prompt, drop its values and return where the time went. Arguments and errors as
        for `run`.
        """
        stop = Stop(timeout, cancel)
        core = self._open()
        captures = captures_of(points, layers, self.config)
        stop.check()
        with self._tokenizer.batch(stop.check) as tokenizer:
            ids = read_prompt(prompt, self.config, tokenizer, ChatOptions()).token_ids
        n_threads = self._n_threads(threads)
        start = time.perf_counter()
        with named(self.path):
            arrays, stages = core.profile(
                ids,
                [0, len(ids)],
                [capture.numbers for capture in captures],
                n_threads=n_threads,
                progress=stop.then(None),
                rope_length=checked_length(rope_length),
            )
        seconds = time.perf_counter() - start  # before the arrays go
        del arrays
        return Profile(seconds, tuple(Stage(*stage) for stage in stages))

    def plan(
        self,
        prompt: object,
        *,
        points: str | Iterable[Name] = DEFAULT_POINTS,
        layers: Layers = None,
        threads: int | None = None,
        rope_length: int | None = None,
    ) -> Plan:
        """The plan of a run with this prompt, or with a number of tokens (an int): the steps, which
        values each computes and where they go, and the memory in bytes. `print(model.plan(8))`
        shows a line for each step; values on one line are one operation.

        Raises the errors of `run` before it computes, but for OutOfMemory: a plan that does not fit
        into memory can be made. ArgumentError for a number of tokens that the model cannot run.
        """
        core = self._open()
        captures = captures_of(points, layers, self.config)
        n_threads = self._n_threads(threads)
        if is_whole(prompt):
            n = whole("prompt", prompt, 1, self.config.max_positions + 1)
            prompt = np.zeros(n, np.int32)
        ids, starts = _joined(self._read(prompt, ChatOptions(), Stop())[0])
        with named(self.path):
            found = core.plan(
                ids,
                starts,
                [capture.numbers for capture in captures],
                n_threads=n_threads,
                rope_length=checked_length(rope_length),
            )
        return plan_of(*found)

    def __reduce__(self) -> tuple[Any, ...]:
        if self._core is None:
            raise self._closed()
        marks = self.fingerprints.by_name() | self._tokenizer.marks()
        return _open_again, (self._opening.source, self._opening.options, self.config.raw, marks)

    def close(self) -> None:
        """Release the files; closing twice is legal.

        Runs in progress finish; arrays and weights obtained before stay valid.
        """
        self._core = self._checkpoint = None

    def __enter__(self) -> "Model":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        c, closed = self.config, ", closed" if self._core is None else ""
        return (
            f"<Model {printable(self.origin.shown)}: {c.n_layers} layers, d_model {c.d_model},"
            f" {c.n_heads} heads, {c.n_kv_heads} kv heads, vocabulary {c.vocab_size},"
            f" {self.n_params:,} parameters{brief(self.quantization)}{closed}>"
        )

    def _n_threads(self, threads: int | None) -> int:
        return thread_count(self._opening.threads if threads is None else threads)

    def _read(self, prompt: object, chat: ChatOptions, stop: Stop) -> tuple[list[Prompt], bool]:
        """The prompts, and whether they are a batch."""
        with self._tokenizer.batch(stop.check) as tokenizer:
            read = partial(read_prompt, config=self.config, tokenizer=tokenizer, options=chat)
            return read_prompts(prompt, read, stop.check)

    def _open(self) -> _core.Model:
        if self._core is None:
            raise self._closed()
        return self._core

    def _closed(self) -> ArgumentError:
        return ArgumentError(f"the model {printable(self.origin.model)} is closed; load it again")

    def _runs(
        self,
        prompts: Sequence[Prompt],
        captures: Sequence[Capture],
        arrays: Sequence[NDArray[np.float32]],
        rope_length: int | None,
        bounds: Sequence[Bound | None],
    ) -> list[Run]:
        """The Run of each prompt; `arrays` are those of the whole batch, one per capture."""
        lengths = [len(prompt.token_ids) for prompt in prompts]
        values: list[dict[str, tuple[tuple[int, ...], NDArray[np.float32]]]] = [{} for _ in prompts]
        for capture, array in zip(captures, arrays, strict=True):
            shapes = [shape_of(capture.point, self.config, n_tokens) for n_tokens in lengths]
            sizes = [math.prod(shape) for shape in shapes]
            parts = _core.split(array, sizes) if len(sizes) > 1 else [array]
            for held, part, shape in zip(values, parts, shapes, strict=True):
                value = part.reshape(len(part), *shape)
                held[capture.name] = capture.layers, value if capture.layers else value[0]
        return [
            Run(one, held, self.origin, rope_length, bound.applied() if bound else None)
            for one, held, bound in zip(prompts, values, bounds, strict=True)
        ]


# ---- running ----


def _joined(prompts: Sequence[Prompt]) -> tuple[NDArray[np.int32], list[int]]:
    """The ids of all prompts, concatenated, and the start of each, with the end of the last."""
    ids = [prompt.token_ids for prompt in prompts]
    return np.concatenate(ids), [0, *np.cumsum([len(one) for one in ids]).tolist()]


# ---- opening ----


def _open_again(
    source: dict[str, Any], options: dict[str, Any], raw: dict[str, Any], marks: dict[str, str]
) -> Model:
    """A model that was pickled, if its files are here and the same. `raw` is its config.json,
    `marks` are the fingerprints of its other files by name. Nothing is downloaded."""
    if not os.path.isdir(source.get("cache_dir", os.curdir)):  # another machine's cache
        source = {**source, "cache_dir": None}
    model = load(**source, **options, local_files_only=True)
    if model.config.raw != raw:
        raise not_as_pickled(model.config.path)
    for path, *_ in model.origin.weight_files:
        check_fingerprint(path, marks.pop(os.path.basename(path), None))
    weights = {os.path.basename(path) for path, *_ in model.origin.weight_files}
    found = {name: mark for name, mark in model._tokenizer.marks().items() if name not in weights}
    if found != marks:
        name = min(name for name in found | marks if found.get(name) != marks.get(name))
        raise not_as_pickled(str(model.path / name))
    return model
