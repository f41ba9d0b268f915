"""The file of statistics: safetensors of integers, with a JSON header.

Tensors are named "x.10/sum_2" and so on (docs/statistics.md). `__metadata__` has "statistics", the
facts as JSON, and "sha256", over these facts and the values. Equal statistics have equal bytes.
"""

import hashlib
import json
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..data.tensor_file import Tensor, TensorFile, TensorHash
from ..files.atomic import sync_folder
from ..files.paths import checked_path

if TYPE_CHECKING:
    from .stats import Stats

FORMAT_VERSION = 1
FORMAT = "llamaprobe statistics"
DTYPES = {"<i8": "I64", "<i4": "I32", "<f4": "F32"}


def _metadata_of(stats: "Stats", arrays: dict[str, NDArray[Any]]) -> dict[str, str]:
    head = {"format": FORMAT, **stats.facts}
    text = json.dumps(head, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return {"statistics": text, "sha256": content_sha256(text, arrays.values())}


def content_sha256(facts: str, arrays: Iterable[NDArray[Any]]) -> str:
    """The sha256 over the facts and all values, in the order of the file."""
    digest = hashlib.sha256(facts.encode())
    for array in arrays:
        digest.update(np.ascontiguousarray(array).reshape(-1))
    return digest.hexdigest()


def sha256_of(stats: "Stats") -> str:
    arrays = stats.arrays()
    with TensorHash(_tensors_of(arrays), _metadata_of(stats, arrays)) as file:
        return _put(file, arrays)


def write(stats: "Stats", path: str | os.PathLike[str]) -> str:
    """FileError."""
    path, arrays = checked_path(path), stats.arrays()
    with TensorFile(path, _tensors_of(arrays), _metadata_of(stats, arrays)) as file:
        sha256 = _put(file, arrays)
        file.sync()
        file.rename()
    sync_folder(path.parent)
    return sha256


def _tensors_of(arrays: dict[str, NDArray[Any]]) -> list[Tensor]:
    return [(name, DTYPES[array.dtype.str], array.shape) for name, array in arrays.items()]


def _put(file: TensorHash, arrays: dict[str, NDArray[Any]]) -> str:
    for array in arrays.values():
        if array.size:
            file.write(array)
    return str(file.entry()["sha256"])
