"""The packed weights of a folder of safetensors.

The kind of each is decided by names, dtypes and shapes of its stored tensors. The config must say
the same: where it does not, the folder holds parts of different models.
"""

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from ...config import Config
from ...families.tensors import checkpoint_shapes
from ..folder import Checkpoint
from ..packed import PackedInfo
from ..quantization import with_quantization
from . import awq, compressed_tensors, fbgemm, fp8, gptq, modelopt
from .declared import Declared, read_declared
from .refused import refuse
from .source import Source, modules

_FORMATS: Mapping[str, Callable[[Source], Iterator[PackedInfo]]] = {
    "compressed-tensors": compressed_tensors.find,
    "fp8": fp8.find,
    "fbgemm_fp8": fbgemm.find,
    "modelopt": modelopt.find,
    "gptq": gptq.find,
    "awq": awq.find,
}
# Tensors that no value of a weight depends on: of activations, of the cache, and what says again
# how large a packed matrix is.
_COMPANION = re.compile(
    r".*\.((input|output|k|v|q|kv|kv_cache|activation|prob|prob_output|softmax)_"
    r"(scale|scale_ub|global_scale|zero_point)|input_scale_ub|activation_scale_ub|weight_shape)"
)


def declared_of(config: Config) -> Declared | None:
    """What the folder of a config says of its quantisation. FileError, ConfigError;
    UnsupportedConfigError for a method that is not known."""
    declared = read_declared(config, Path(config.path).parent)
    if declared is not None and declared.method not in _FORMATS:
        raise refuse(declared, _FORMATS)
    return declared


def with_packed(
    config: Config,
    checkpoint: Checkpoint,
    declared: Declared | None,
    weights_as: str = "float32",
) -> Checkpoint:
    """The checkpoint with its packed weights. Raises UnsupportedError, ConfigError, FormatError."""
    if declared is None:
        return checkpoint
    used = dict(checkpoint_shapes(dataclasses.replace(config, tied_head=False)))
    matrices = tuple(modules(checkpoint, used.items()))
    source = Source(checkpoint, config, matrices, used, declared, weights_as == "bf16")
    packed = {info.name: info for info in _FORMATS[declared.method](source)}
    companions = {name for name in checkpoint.tensors if _COMPANION.fullmatch(name)}
    found = dataclasses.replace(
        checkpoint, packed=packed, companions=frozenset(companions | source.companions)
    )
    return with_quantization(found, used, declared.method, source.notes.values(), weights_as)
