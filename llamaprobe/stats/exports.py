"""Statistics in the formats of other tools: llama.cpp's imatrix, SmoothQuant's act_scales, npz.

The input of a linear layer is the point that it reads: x_norm for q, k and v, z for o, x_mid_norm
for gate and up, hidden for down. All tokens count, position 0 too, as in those tools.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..data.tensor_file import write_tensors
from ..errors import ArgumentError
from ..files.atomic import atomic_open
from ..files.paths import checked_path

if TYPE_CHECKING:
    from .channels import Channels
    from .stats import Stats

# point -> (names of the linear layers in GGUF, their modules)
_LINEARS = {
    "x_norm": (
        ("attn_q", "attn_k", "attn_v"),
        ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    ),
    "z": (("attn_output",), ("self_attn.o_proj",)),
    "x_mid_norm": (("ffn_gate", "ffn_up"), ("mlp.gate_proj", "mlp.up_proj")),
    "hidden": (("ffn_down",), ("mlp.down_proj",)),
}


def _inputs(stats: "Stats") -> Iterator[tuple[list[str], list[str], "Channels"]]:
    """(GGUF names, modules, statistics) of each collected input of linear layers. ArgumentError if
    none was collected."""
    n = 0
    for name, entry in stats.facts["targets"].items():
        point, layer = entry["point"], entry["layer"]
        channels = stats.channels(name, "all")
        if point in _LINEARS:
            gguf, modules = _LINEARS[point]
            yield (
                [f"blk.{layer}.{each}.weight" for each in gguf],
                [f"model.layers.{layer}.{each}" for each in modules],
                channels,
            )
        elif point == "final_norm":
            yield ["output.weight"], ["lm_head"], channels
        else:
            continue
        n += 1
    if not n:
        points = ", ".join((*_LINEARS, "final_norm"))
        raise ArgumentError(f"no input of a linear layer was collected; these are {points}")


def write_imatrix(stats: "Stats", path: str | os.PathLike[str], dataset: str) -> None:
    try:
        import gguf
    except ImportError:
        raise ArgumentError("an imatrix needs the library gguf: pip install gguf") from None
    entries: dict[str, NDArray[np.float32]] = {}
    for names, _, channels in _inputs(stats):
        n = channels.count.reshape(-1)
        if (n != n[0]).any():
            raise ArgumentError(f"{channels.name}: values that are not finite were left out")
        squares, sums = _sums(channels, 2), _sums(channels, 1)
        for name in names:
            entries[f"{name}.in_sum2"] = squares[None]
            entries[f"{name}.in_sum"] = sums[None]
            entries[f"{name}.counts"] = np.array([[n[0]]], np.float32)
    windows = stats.facts["covers"]
    with _replaced(path) as temporary:
        writer = gguf.GGUFWriter(temporary, "")
        # the writer adds "general.architecture", which an imatrix does not have
        writer.kv_data[0].pop("general.architecture", None)
        writer.add_type("imatrix")
        writer.add_array("imatrix.datasets", [dataset or f"sha256:{stats.facts['data']['sha256']}"])
        writer.add_uint32("imatrix.chunk_count", sum(stop - first for first, stop in windows))
        writer.add_uint32("imatrix.chunk_size", stats.facts["data"]["max_tokens"])
        for name, array in entries.items():
            writer.add_tensor(name, array)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def _sums(channels: "Channels", p: int) -> NDArray[np.float32]:
    """The exact sums of x^p, rounded to float64 and then to float32."""
    values = [int(each) / (1 << 149 * p) for each in channels.power_sums(p).reshape(-1)]
    return np.array(values).astype(np.float32)


class _replaced:
    """A temporary file beside `path`, renamed to it once it is complete."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = checked_path(path)

    def __enter__(self) -> Path:
        import tempfile

        self._folder = tempfile.TemporaryDirectory(prefix="llamaprobe-")
        return Path(self._folder.name) / "file"

    def __exit__(self, kind: Any, *exc: object) -> None:
        with self._folder as folder:
            if kind is None:
                with atomic_open(self._path) as file:
                    file.write((Path(folder) / "file").read_bytes())


def write_act_scales(stats: "Stats", path: str | os.PathLike[str]) -> None:
    arrays: dict[str, NDArray[Any]] = {}
    for _, modules, channels in _inputs(stats):
        largest = np.ascontiguousarray(channels.absmax.reshape(-1), np.float32)
        arrays |= dict.fromkeys(modules, largest)
    write_tensors(checked_path(path), arrays, {"llamaprobe": stats.sha256})


def write_npz(stats: "Stats", path: str | os.PathLike[str]) -> None:
    arrays: dict[str, Any] = {}
    for target in stats.targets:
        for group in (*stats.groups, *(("all",) if len(stats.groups) > 1 else ())):
            for name, array in _floats(stats.channels(target, group)).items():
                arrays[f"{target}/{group}/{name}"] = array
    with atomic_open(checked_path(path)) as file:
        np.savez(file, **arrays)


def _floats(channels: "Channels") -> dict[str, Any]:
    chosen = channels._chosen
    found: dict[str, Any] = dict(channels.columns())
    if chosen.histogram:
        edges, counts = channels.histogram()
        found |= {"histogram_edges": edges, "histogram": counts}
    if chosen.gram:
        found |= {"gram": channels.gram(), "gram_rows": channels.gram_rows}
    return found
