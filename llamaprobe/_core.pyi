"""The C core, as Python sees it. Private: users go through `llamaprobe`."""

from collections.abc import Callable, Sequence
from os import PathLike
from typing import Any, TypeVar, Union

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Buffer

_T = TypeVar("_T")
_R = TypeVar("_R")
_Bytes = Buffer | NDArray[Any]  # NumPy says that arrays are buffers from Python 3.12 on
_Capture = tuple[int, Sequence[int]] | tuple[int, Sequence[int], bool]
_Index = NDArray[np.uint32]
_Function = Callable[[NDArray[np.float32]], NDArray[np.float32] | None]
_Edit = tuple[int, int, int, int, _Index, _Index, _Index, NDArray[np.float32] | _Function]
_Branch = tuple["Cache", Sequence[int], int, NDArray[np.float32]]
_File = Union["Safetensors", "Gguf"]
ARITHMETIC_VERSION: int
"""Of docs/arithmetic.md: runs of another version have other bits."""

class Safetensors:
    """One open safetensors file, its header proved. The map lives until the last array and model that use it."""

    def __init__(
        self, path: str | bytes | PathLike[str], *, mmap: bool = True, dir_fd: int | None = None
    ) -> None:
        """FileError, FormatError, OutOfMemory. With `dir_fd` the last part of `path` is opened, in that folder and
        nowhere else; `path` is then what the file is called."""
    @property
    def path(self) -> str: ...
    @property
    def n_bytes(self) -> int: ...
    @property
    def n_ignored(self) -> int:
        """Unknown keys inside tensor entries, which were ignored."""
    @property
    def metadata(self) -> dict[str, str]: ...
    def tensors(self) -> list[tuple[str, str, tuple[int, ...], int, int]]:
        """(name, dtype, shape, offset in the file, bytes) in the order of the data."""
    def read(self, name: str) -> NDArray[np.float32]:
        """A float32 copy of a BF16, F16 or F32 tensor in its shape, made by all cores; Ctrl-C stops it.
        ArgumentError, UnsupportedError, OutOfMemory before anything is made."""
    def raw(self, name: str) -> NDArray[np.uint8]:
        """The bytes of a tensor, 1-D, read-only, in place (the array keeps the map alive)."""
    def check_unchanged(self) -> None:
        """FileChangedError when the file has changed since it was opened."""

class Gguf:
    """One open GGUF file, its header proved. The map lives until the last array and model that use it."""

    def __init__(
        self, path: str | bytes | PathLike[str], *, mmap: bool = True, dir_fd: int | None = None
    ) -> None:
        """As Safetensors; UnsupportedError for versions other than 2 and 3, for big-endian files, and for types of
        tensors that are not known."""
    @property
    def path(self) -> str: ...
    @property
    def n_bytes(self) -> int: ...
    @property
    def version(self) -> int: ...
    @property
    def alignment(self) -> int: ...
    def tensors(self) -> list[tuple[str, str, tuple[int, ...], int, int]]:
        """(name, ggml's type, shape, offset in the file, bytes) in the order of the data. Shapes are in NumPy's order,
        the reverse of the file's: a matrix is (out, in)."""
    def read(self, name: str) -> NDArray[np.float32]:
        """As Safetensors.read."""
    def raw(self, name: str) -> NDArray[np.uint8]:
        """As Safetensors.raw."""
    def metadata(self) -> dict[str, Any]:
        """int, float, bool, str or list by key, as stored, without arrays of more than 64 items. A float32 is the double
        of the shortest decimal that reads back to it: 1e-05. Bytes of a string that are not UTF-8 are lone surrogates,
        as in names of files. FileChangedError."""
    def array(self, key: str) -> list[Any]:
        """The items of any array. ArgumentError, FileChangedError."""
    def keys(self) -> list[tuple[str, str, int | None]]:
        """(key, type, None), or (key, type of the items, number of items) for an array; types are u8, i8, u16, i16,
        u32, i32, f32, bool, string, array, u64, i64 and f64."""
    def check_unchanged(self) -> None:
        """FileChangedError when the file has changed since it was opened."""

class Packed:
    """A packed weight in open files, its parts proved: codes, scales and zeros, or rows in another order. It stays in
    its files, and holds them. docs/quantised.md has the kinds and their formulas."""

    def __init__(
        self,
        kind: str,
        shape: tuple[int, int],
        parts: dict[str, tuple[_File, str]],
        *,
        bits: int = 0,
        scale_rows: int = 0,
        scale_cols: int = 0,
        zero_is_less_one: bool = False,
        turned: int = 0,
        as_bf16: bool = False,
    ) -> None:
        """parts: "codes", "scales", "zeros", "group_of" -> (file, name of the tensor in it). bits: of a code of int,
        gptq and awq. scale_rows, scale_cols: rows and columns that share a scale; 0 for all. zero_is_less_one: zeros of
        gptq version 1. turned: of llama's q and k in GGUF, the head_dim. as_bf16: values are rounded to bf16.
        FormatError for parts that are not what the kind requires; ArgumentError, FileChangedError, OutOfMemory."""
    @property
    def kind(self) -> str: ...
    @property
    def shape(self) -> tuple[int, int]: ...
    @property
    def n_bytes(self) -> int:
        """Of all parts."""
    def read(self, first_row: int = 0, n_rows: int | None = None) -> NDArray[np.float32]:
        """The values of these rows, all from `first_row` on for None, made by all cores; Ctrl-C stops it. ArgumentError,
        FileChangedError, OutOfMemory before anything is made."""

class Model:
    """An open model: what lp_model_open proved. Keeps its files alive."""

    def __init__(
        self,
        files: Sequence[_File],
        *,
        prefix: str,
        modules: dict[str, str],
        windows: tuple[int, ...],
        ropes: tuple[tuple[NDArray[np.float32], float, NDArray[np.float32] | None, int], ...],
        rope_of: tuple[int, ...],
        tensors: dict[str, Packed | tuple[_File, str]] = ...,
        **numbers: float,
    ) -> None:
        """`numbers` are those of `config()`, each of its kind, and all of them. prefix: of the names of tensors.
        modules: point -> module of a layer whose matrix or gain computes it. windows: of each layer, 0 for none. ropes:
        (inv_freq, factor of cos and sin, inv_freq beyond so many tokens or None, so many). rope_of: of each layer its
        number among them, -1 for none. tensors: names that stand for packed weights, or for tensors (file, name), all
        of them in `files`, in which other names are looked up. ArgumentError for what is out of range, FormatError for
        tensors that are not what they say, UnsupportedError."""
    def run(
        self,
        token_ids: NDArray[np.int32],
        seq_start: Sequence[int],
        points: Sequence[_Capture],
        *,
        n_threads: int,
        progress: Callable[[int, int], object] | None = None,
        rope_length: int = 0,
        observer: tuple[Stats, NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]]
        | None = None,
        edits: Sequence[_Edit] | None = None,
        changed: NDArray[np.int64] | None = None,
        caches: Sequence[Cache | None] | None = None,
        last_rows: bool = False,
        branch: _Branch | None = None,
    ) -> list[NDArray[np.float32]]:
        """One array [requested layers, floats of the place] per (point number, layer numbers); points that are not
        per layer have one layer, 0. No (point, layer) comes twice; a third item that is true requests the values
        before their edits. Ctrl-C is checked about every 20 ms;
        `progress(steps done, steps in all)` is called then, with (0, 0) while memory is prepared, and once at the
        end; an exception from it stops the run.
        rope_length: as if each sequence had so many tokens for the choice of a table of RoPE; 0 for its own.
        observer: statistics that see the values of their targets; the group of each token, negative for those that
        are left out; the document of each sequence, and where in it the sequence begins.
        caches: of each sequence, whose ids are then those that follow the tokens in its cache: they stand at the
        positions from cache.n_tokens on, maps are [n_heads, ids, n_tokens + ids], and all values are those of one run
        of all tokens. The cache grows by them if the run succeeds; else its tokens are as before.
        last_rows: points that are not per layer have one row per sequence, that of its last token, and the last layer
        computes only these rows after attention unless one of its values there is requested.
        branch: (cache, first rows, layer, x): the ids are rows of the tokens that the cache has, from its first row on
        in each sequence; they enter `layer` with x [n_tokens, d_model]. Rows before them are those of the cache, which
        is only read, and layers before it are not computed. One first row for each sequence; no caches.
        edits: (op, point number, layer, sequence, three lists of indices, values), as in csrc/run/edit.h: op 0 sets,
        1 adds, 2 multiplies, 3 calls a function. The lists are in the order of the axes: rows of this call in its
        sequence, heads or one 0, channels; of a map heads, rows, keys. values: three axes, each as long as its list or
        1. A function takes the elements as [n0, n1, n2] and returns as many, or None when it wrote to them.
        changed: the numbers of changed elements are added to it.
        The GIL is released while it computes. OutOfMemory before anything is made; ArgumentError, EditError (a
        query without a key, a function that returned what is not finite), FileChangedError."""

    def profile(
        self,
        token_ids: NDArray[np.int32],
        seq_start: Sequence[int],
        points: Sequence[_Capture],
        *,
        n_threads: int,
        progress: Callable[[int, int], object] | None = None,
        rope_length: int = 0,
        edits: Sequence[_Edit] | None = None,
        changed: NDArray[np.int64] | None = None,
        caches: Sequence[Cache | None] | None = None,
        last_rows: bool = False,
        branch: _Branch | None = None,
    ) -> tuple[list[NDArray[np.float32]], list[tuple[str, float, int, float, float, float]]]:
        """The result of `run`, and (stage, seconds, laps, FLOP, bytes of weights, bytes of values) of every stage of
        csrc/sys/profile.h. Only computed work counts, not what causal attention skips; a multiply-add is two."""

    def plan(
        self,
        token_ids: NDArray[np.int32],
        seq_start: Sequence[int],
        points: Sequence[_Capture],
        *,
        n_threads: int,
        progress: Callable[[int, int], object] | None = None,
        rope_length: int = 0,
        edits: Sequence[_Edit] | None = None,
        changed: NDArray[np.int64] | None = None,
        caches: Sequence[Cache | None] | None = None,
        last_rows: bool = False,
        branch: _Branch | None = None,
    ) -> tuple[list[tuple[int, str, list[tuple[str, str, int]], int]], int, int]:
        """The plan of `run`: the steps as (layer or -1, stage, values, bytes of weights read), with values as (point,
        "array", "scratch" or "" if not stored, bytes); bytes of values in scratch; bytes of all scratch. The errors
        of `run` before it computes."""

    def head(
        self,
        x: NDArray[np.float32],
        token_ids: NDArray[np.int32] | None,
        *,
        n_threads: int,
    ) -> NDArray[np.float32]:
        """The last norm and the head on rows x [n, d_model]: logits [n, tokens], of all of the vocabulary for None. The
        rows of the last layer's x_out give the bits of `run`'s logits. Ctrl-C stops it.
        OutOfMemory before anything is made; ArgumentError, FileChangedError."""

class Stats:
    """Statistics that Model.run adds up: csrc/stats/stats.h."""

    is_whole: bool
    """False after a run was stopped, or memory ran out, in the middle of it: they are of no use then."""

    def __new__(
        cls,
        targets: tuple[tuple[int, int, int, int], ...],
        n_groups: int,
        *,
        moments: bool = False,
        histogram: bool = False,
        gram: bool = False,
        top: int = 0,
        thetas: NDArray[np.float32] = ...,
        high: int = 0,
        n_prefixes: int = 0,
        n_bits: int = 0,
    ) -> Stats:
        """targets: (point number, layer, channels, keys of a map or 0). OutOfMemory, ArgumentError."""
    def arrays(self, target: int, group: int) -> dict[str, NDArray[Any]]:
        """The state: copies. ArgumentError, OutOfMemory."""
    def set_prefixes(self, target: int, group: int, prefixes: NDArray[np.uint32]) -> None:
        """[n_channels, n_prefixes]: which values have their digits counted."""

class Cache:
    """The keys and values of a sequence's tokens so far, of every layer, for Model.run. Keeps its model alive. One
    thread at a time uses it: ArgumentError for a second one."""

    def __init__(self, model: Model, capacity: int = 0, *, n_threads: int = 1) -> None:
        """Room for `capacity` tokens, taken now. ArgumentError: more than the model takes; OutOfMemory."""
    @property
    def n_tokens(self) -> int: ...
    @property
    def capacity(self) -> int:
        """Tokens that there is room for. A run that needs more makes room for half as many again: the new memory is
        checked with all else that the run needs, and the tokens are moved."""
    @property
    def n_bytes(self) -> int:
        """Of its memory: 2 n_layers n_kv_heads head_dim floats for each token of the capacity, with head_dim of v
        rounded up to a multiple of 8."""
    @property
    def model(self) -> Model: ...
    def rewind(self, n_tokens: int, /) -> None:
        """Drops all tokens but the first. ArgumentError: it has fewer."""
    def copy(self, capacity: int = 0, *, n_threads: int = 1) -> Cache:
        """Another cache with the same tokens, and room for `capacity` tokens or more. OutOfMemory."""

def split(array: NDArray[np.float32], sizes: Sequence[int]) -> list[NDArray[np.float32]]:
    """Split the rows of an array of Model.run in place: one array [rows, size] for each size. Each owns its columns:
    dropping it returns their pages to the system, and `array` must not be used any more. ArgumentError: another
    array, or sizes that do not add up to a row."""

def points() -> list[tuple[str, str, bool]]:
    """(name, width, per layer) of every capture point, in the order of computation.
    Widths are those of `widths()`."""

def reads() -> dict[str, str]:
    """Point -> the points that it is computed from, in the order of its formula, as csrc/model/points.h has them: "X X_RMS". x
    reads x_out of the layer before."""

def widths() -> dict[str, str]:
    """Width -> its axes, separated by spaces: "T", the number of tokens, or a number of `config()`."""

def config() -> list[tuple[str, str]]:
    """(name, kind) of every number of a model that the core needs: "size", "real" or "flag"."""

def kernels() -> list[tuple[str, bool]]:
    """(name, can this CPU run it) of every kernel variant in this build, best last."""

def kernel_in_use() -> str:
    """Name of the variant in use. Error when LLAMAPROBE_KERNELS names one that is unknown or that the CPU cannot run."""

def cores() -> int:
    """Cores that this process may use: affinity and cgroup quota."""

def memory() -> int | None:
    """Bytes available without swapping: free memory, cgroup and rlimits. None if unknown."""

def roof(n_threads: int) -> tuple[float, float]:
    """(FLOP, bytes read from memory) per second of this machine now, with so many threads and the variant in use, in
    about 0.25 s. OutOfMemory; ArgumentError."""

def sample(
    logits: NDArray[np.float32],
    position: int,
    temperature: float,
    top_k: int,
    top_p: float,
    seed: int,
    number: int,
) -> tuple[int, float]:
    """(id, logprob) of the token at `position`, from a row of logits, by the rule lp-sample-1. temperature 0: greedy;
    top_k or top_p 0: all. ArgumentError, which names the position: a NaN, +inf, or no finite logit."""

def call_rounded(function: Callable[[_T], _R], arg: _T) -> _R:
    """function(arg), rounding to nearest even and keeping denormals; the mode of the calling thread is restored
    afterwards, also after an exception."""

# ---- numbers to text and back: csrc/python/text_functions.c ----

def format_floats(
    out: _Bytes, values: _Bytes, first: int, n_cols: int, sep: str, digits: int, n_threads: int
) -> list[tuple[int, int]]:
    """Float32 numbers of a matrix, from number `first` on, as text in `out`; (start, stop) of its pieces in order.
    digits -1 is the shortest that reads back, N is "%.Ne"."""

def format_words(
    out: _Bytes, words: _Bytes, first: int, n_cols: int, sep: str, table: object, n_threads: int
) -> list[tuple[int, int]]:
    """The same for the bytes of 16-bit floats, spelled by a table of `text_table`."""

def text_table(is_bf16: bool, digits: int) -> object:
    """The spelling of every 16-bit word, for `format_words`."""

def text_capacity(count: int) -> int:
    """Bytes that `out` needs for so many numbers."""

def parse_floats(
    out: _Bytes,
    text: _Bytes | tuple[int, int],
    start: int,
    sep: str,
    n_threads: int,
    spreadsheet: bool = False,
) -> dict[str, object] | None:
    """The numbers of a text, bytes or (file descriptor, size), from byte `start` on into float32 `out`, which they
    fill exactly. None, or what is wrong and where. `spreadsheet` ignores quotes, and empty cells at the ends of lines.
    Ctrl-C stops it. Raises OSError."""
