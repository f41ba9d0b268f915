"""Documents given as token ids, in .npy and .safetensors files.

A 1-D array is one document, a 2-D array has one document per row. A safetensors file with
`token_id` and `doc_start` holds concatenated documents of any length, like the token files of a
harvest.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .. import _core
from ..errors import FormatError
from ..files.atomic import open_regular
from ..messages import printable, shown_path
from .document import Document

_INTEGERS = {
    "I64": "<i8",
    "U64": "<u8",
    "I32": "<i4",
    "U32": "<u4",
    "I16": "<i2",
    "U16": "<u2",
    "U8": "u1",
}


def read_npy(path: Path) -> Iterator[Document]:
    """The documents of a .npy file. FormatError, FileError."""
    with open_regular(path):
        pass
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # tokenize, zipfile and ast raise their own
        reason = printable(str(error).splitlines()[0] if str(error) else "cannot be read", 120)
        raise FormatError(f"{shown_path(path)}: is not a .npy file: {reason}") from None
    if not isinstance(array, np.ndarray):  # an .npz archive
        raise FormatError(f"{shown_path(path)}: is an archive; give one array of ids")
    yield from _documents(array, shown_path(path))


def read_safetensors(path: Path, name: str | None) -> Iterator[Document]:
    """The tensor `name`; by default `token_id` with `doc_start`, `input_ids`, or the only one.
    FormatError, FileError."""
    shown = shown_path(path)
    file = _core.Safetensors(str(path))
    tensors = {tensor: (dtype, shape) for tensor, dtype, shape, _, _ in file.tensors()}

    def array(tensor: str) -> NDArray[np.generic]:
        dtype, shape = tensors[tensor]
        if dtype not in _INTEGERS:
            raise FormatError(f"{shown}: {printable(tensor)} is {dtype}, not token ids (integers)")
        return file.raw(tensor).view(_INTEGERS[dtype]).reshape(shape)

    if name is None and {"token_id", "doc_start"} <= set(tensors):
        yield from _ragged(array("token_id"), array("doc_start"), shown)
        return
    if name is None:
        name = "input_ids" if "input_ids" in tensors or len(tensors) != 1 else next(iter(tensors))
    if name not in tensors:
        found = ", ".join(printable(tensor, 40) for tensor in list(tensors)[:8]) or "none"
        raise FormatError(f"{shown}: has no tensor {printable(name)}; its tensors: {found}")
    yield from _documents(array(name), shown)


def _documents(array: NDArray[np.generic], shown: str) -> Iterator[Document]:
    if array.dtype.kind not in "iu" or array.ndim not in (1, 2):
        raise FormatError(
            f"{shown}: holds {array.dtype} of shape {list(array.shape)}; token ids are integers in"
            " one or two dimensions"
        )
    for number, ids in enumerate(array if array.ndim == 2 else [array]):
        yield Document(f"{shown}: row {number}", np.asarray(ids))


def _ragged(
    ids: NDArray[np.generic], starts: NDArray[np.generic], shown: str
) -> Iterator[Document]:
    ends = starts.astype(np.int64)
    is_ordered = ends.ndim == ids.ndim == 1 and ends.size > 0 and bool(np.all(np.diff(ends) >= 0))
    if not is_ordered or ends[0] != 0 or ends[-1] != len(ids):
        raise FormatError(
            f"{shown}: doc_start must rise from 0 to {ids.size}, the number of token ids"
        )
    for number, (start, stop) in enumerate(zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True)):
        yield Document(f"{shown}: document {number}", np.asarray(ids[start:stop]))
