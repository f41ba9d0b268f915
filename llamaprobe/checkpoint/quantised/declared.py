"""What a folder says of its quantisation: in config.json, or in a file beside it.

Older quantisers write quantize_config.json (GPTQ), quant_config.json (AWQ) or hf_quant_config.json
(ModelOpt) in place of the block of config.json; where there is both, config.json counts.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ...config import Config
from ...errors import ConfigError
from ...families.keys import Keys
from ...files.json_file import find_file, parse_object, show
from ...messages import shown_path

_MAX_BYTES = 4 << 20
_BLOCKS = ("quantization_config", "compression_config", "quantization")
FILES = {"quantize_config.json": "gptq", "quant_config.json": "awq", "hf_quant_config.json": ""}
_SAME = ("bits", "group_size", "desc_act", "sym", "quant_algo")


class Declared(NamedTuple):
    """A block of keys about quantisation."""

    method: str
    """quant_method: "gptq"."""
    keys: Keys

    def recorded(self, config: Config) -> Config:
        """The config with this block in `raw`, also where a file beside config.json has it."""
        if any(config.raw.get(key) is not None for key in _BLOCKS) or "text_config" in config.raw:
            return config
        return dataclasses.replace(config, raw=config.raw | {_BLOCKS[0]: self.keys.values})

    @property
    def where(self) -> str:
        """For messages: "/folder/config.json: quantization_config"."""
        return f"{self.keys.path}: {self.keys.name}".removesuffix(".").removesuffix(": ")


def read_declared(config: Config, folder: Path) -> Declared | None:
    """None for a folder that says nothing of quantisation. FileError, ConfigError."""
    whole = Keys(shown_path(config.path), config.raw)
    inner = config.raw.get("text_config")
    for keys in (whole, Keys(whole.path, inner if type(inner) is dict else {}, "text_config.")):
        for key in _BLOCKS:
            if keys.values.get(key) is not None:
                inside = keys.inside(key)
                found = Declared(_method(inside, key), inside)
                for other in _beside(folder):
                    _check_agree(found.keys, other.keys)
                return found
    return next(_beside(folder), None)


def _beside(folder: Path) -> Iterator[Declared]:
    for name, method in FILES.items():
        data = find_file(folder / name, _MAX_BYTES, ConfigError)
        if data is None:
            continue
        keys = Keys(shown_path(folder / name), parse_object(data, folder / name, ConfigError))
        if "quantization" in keys.values:  # ModelOpt's is one level down
            keys = keys.inside("quantization")
        yield Declared(keys.text("quant_method") or method or _method(keys, name), keys)


def _check_agree(keys: Keys, other: Keys) -> None:
    for key in _SAME:
        if {key} <= keys.values.keys() & other.values.keys():
            here, there = keys.values[key], other.values[key]
            if here != there:
                raise ConfigError(
                    f"{keys.path}: {keys.name}{key} is {show(here)}, but in {other.path}"
                    f" {other.name}{key} is {show(there)}; one of them is of another model"
                )


def _method(keys: Keys, block: str) -> str:
    """Blocks without quant_method are known by their keys."""
    method, has = keys.text("quant_method"), keys.values.keys()
    if method is not None:
        return method.lower()
    if "load_in_4bit" in has or "load_in_8bit" in has:
        return "bitsandbytes"
    if block == "compression_config" or "config_groups" in has:
        return "compressed-tensors"
    if "quant_algo" in has:
        return "modelopt"
    if "desc_act" in has or "damp_percent" in has:
        return "gptq"
    if {"bits", "group_size"} <= has:
        return "mlx"
    keys.fail("quant_method", 'the name of a method, such as "gptq"')
