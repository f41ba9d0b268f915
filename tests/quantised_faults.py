"""Faults of quantised checkpoints, for the tests that expect an error."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import quantised_checkpoints as made
from quantised_checkpoints import stored

import llamaprobe as lp

DOWN = "model.layers.1.mlp.down_proj"  # [48, 80]
Q = "model.layers.0.self_attn.q_proj"  # [64, 48]
BLOCK = "quantization_config"
GROUP = f"{BLOCK}.config_groups.group_0"
WEIGHTS = f"{GROUP}.weights"

Change = dict[str, Any]  # of tensors by name, or of keys of config.json by path


def zeros(dtype: str, *shape: int) -> tuple[str, list[int], bytes]:
    return stored(dtype, np.zeros(shape))


def error_of(folder: Path, kind: type[Exception], changes: Change, **options: Any) -> str:
    """The message of `load` after changes: of tensors where a name has no key of config.json."""
    keys = {name: new for name, new in changes.items() if name.split(".")[0] != "model"}
    made.change(folder, {name: new for name, new in changes.items() if name not in keys})
    made.change_config(folder, keys)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(kind) as e:
            lp.load(folder, **options)
    message = str(e.value)
    assert message.startswith(str(folder)) and message.isprintable()
    return message
