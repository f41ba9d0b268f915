"""Random damage to quantised checkpoints and their configs: they are opened, or there is one of
llamaprobe's errors."""

import json
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import quantised_checkpoints as made

import llamaprobe as lp

VALUES: list[Any] = [
    *(
        None,
        True,
        False,
        0,
        1,
        -1,
        3,
        8,
        16,
        48,
        1 << 40,
        0.5,
        "",
        "x",
        "gptq",
        "re:(",
        "re:.*",
        "int",
    ),
    *("pack-quantized", "float-quantized", "group", "channel", [], {}, [1], [[]], [None], [32, 32]),
    *(
        [0, 0],
        ["Linear"],
        ["re:.*_proj"],
        {"a": 1},
        {"num_bits": 4},
        {"-:.*": None},
        {".*": {"bits": 4}},
    ),
]
DTYPES = {"BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "I16": 2, "F16": 2}
DTYPES |= {"BF16": 2, "I32": 4, "F32": 4, "I64": 8, "F64": 8}
SHAPES = [
    (),
    (0,),
    (1,),
    (2,),
    (48,),
    (64,),
    (64, 48),
    (48, 64),
    (6, 64),
    (48, 8),
    (64, 6),
    (3, 64),
]
SHAPES += [(3, 8), (64, 1), (64, 3), (1, 64), (0, 1 << 40), (1, 1, 1), (2, 2)]
PARTS = ["weight", "weight_scale", "weight_scale_inv", "weight_zero_point", "weight_packed", "bias"]
PARTS += ["weight_shape", "weight_g_idx", "qweight", "qzeros", "scales", "g_idx", "input_scale"]
MODULE = "model.layers.0.self_attn.q_proj"


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every key and item of a JSON value."""
    items = (
        value.items() if type(value) is dict else enumerate(value) if type(value) is list else ()
    )
    return [path for key, one in items for path in ((*at, key), *places(one, (*at, key)))]


def damaged_config(config: dict[str, Any], random: np.random.Generator) -> dict[str, Any]:
    config = json.loads(json.dumps(config))
    inside = places(config["quantization_config"], ("quantization_config",))
    *outer, key = inside[random.integers(len(inside))]
    at: Any = config
    for step in outer:
        at = at[step]
    at[key] = VALUES[random.integers(len(VALUES))]
    return config


def damaged_tensor(random: np.random.Generator) -> tuple[str, Any]:
    name = f"{MODULE}.{PARTS[random.integers(len(PARTS))]}"
    if not random.integers(6):
        return name, None
    dtype, size = list(DTYPES.items())[random.integers(len(DTYPES))]
    shape = SHAPES[random.integers(len(SHAPES))]
    return name, (dtype, list(shape), random.bytes(size * math.prod(shape)))


def load(folder: Path) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            model = lp.load(folder)
        except lp.Error as error:
            assert str(error).isprintable() and str(folder) in str(error)
            return type(error).__name__
        model.run([1, 2, 3], points=["logits"])
        return "opened"


FORMATS = [name for name, each in made.FORMATS.items() if each.key == "quantization_config"]
FORMATS = [name for name in FORMATS if made.FORMATS[name].block]


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
def test_damage_is_met_with_an_error(tmp_path: Path, name: str):
    random = np.random.default_rng(len(name))
    made.FORMATS[name].make(tmp_path, made.config_of() | {"num_hidden_layers": 1})
    whole = (tmp_path / "model.safetensors").read_bytes()
    config = json.loads((tmp_path / "config.json").read_text())
    outcomes = set()
    for number in range(20):
        changes = dict([damaged_tensor(random)]) if number % 2 else {}
        said = config if changes else damaged_config(config, random)
        (tmp_path / "config.json").write_text(json.dumps(said))
        (tmp_path / "model.safetensors").write_bytes(whole)
        if changes:
            made.change(tmp_path, changes)
        outcomes.add(load(tmp_path))
    assert outcomes - {"opened"}
