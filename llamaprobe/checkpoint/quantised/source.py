"""What the module of a format works on: the matrices that a model uses, with the stored tensors of
each, and the errors that name the file, the tensor, what the config says and what the file has."""

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from ... import _core
from ...config import Config
from ...errors import FormatError, UnsupportedError
from ...families.keys import Keys
from ...files.json_file import show
from ...messages import printable, shown_path
from ..folder import Checkpoint, TensorInfo, named
from ..packed import PackedInfo
from .declared import Declared

FLOATS = ("F32", "BF16", "F16")
_MAX_SHOWN = 100


class Module(NamedTuple):
    """A matrix of the model."""

    name: str
    """Without ".weight": "model.layers.0.mlp.down_proj"."""
    n_rows: int
    n_cols: int
    parts: Mapping[str, TensorInfo]
    """Last word of the name -> stored tensor: "weight", "weight_scale", "bias"."""

    @property
    def is_plain(self) -> bool:
        """Whether it is stored as floats."""
        return "weight" in self.parts and self.parts["weight"].dtype in FLOATS

    @property
    def is_head(self) -> bool:
        return self.name.endswith("lm_head")

    @property
    def is_embedding(self) -> bool:
        return self.name.endswith("embed_tokens")


@dataclass(frozen=True)
class Source:
    """One folder, for one format."""

    checkpoint: Checkpoint
    config: Config
    modules: tuple[Module, ...] = field(repr=False)
    used: Collection[str] = field(repr=False)
    """The names of all tensors that the model uses."""
    declared: Declared
    as_bf16: bool
    notes: dict[str, str] = field(default_factory=dict)
    """Kind -> the first fact of that kind, for the user."""
    companions: set[str] = field(default_factory=set)
    """Stored tensors that no value depends on."""

    def note_activations(self, declared: str) -> None:
        self.notes["activations"] = (
            f"{self.declared.where} declares quantised activations, {printable(declared, 80)}, which"
            " are not applied: a run has the values of the weights alone"
        )

    def with_codes(
        self, suffix: str, key: str, is_listed: Callable[[Module], bool]
    ) -> Iterator[Module]:
        """The modules that hold codes, which a key of the config must not list as left out. All
        others must be listed, but for the head and the embedding."""
        for module in self.modules:
            if suffix in module.parts and not module.is_plain:
                if is_listed(module):
                    self.differ(module, suffix, key)
                yield module
            elif module.is_plain and not (module.is_head or module.is_embedding):
                if not is_listed(module):
                    self.differ(module, "weight", key, "not quantised")

    def part(self, module: Module, suffix: str, *dtypes: str) -> TensorInfo:
        """A stored tensor that must be there, and of one of some dtypes."""
        found = module.parts.get(suffix)
        if found is None:
            held = ", ".join(sorted(module.parts))
            raise FormatError(
                f"{shown_path(self.checkpoint.folder)}: tensor {_full(module, suffix)} is missing;"
                f" of this module the files have {printable(held, 200)}"
            )
        if dtypes and found.dtype not in dtypes:
            self.fail(module, suffix, f"is {found.dtype}; it must be {' or '.join(dtypes)}")
        return found

    def fail(self, module: Module, suffix: str, fact: str) -> NoReturn:
        raise FormatError(f"{self._at(module, suffix)} {fact}")

    def refuse(self, module: Module, suffix: str, fact: str) -> NoReturn:
        raise UnsupportedError(f"{self._at(module, suffix)} {fact}")

    def differ(
        self, module: Module, suffix: str, key: str, fact: str = "", keys: Keys | None = None
    ) -> NoReturn:
        """The file has something else than a key of the config says."""
        tensor, keys = module.parts[suffix], keys or self.declared.keys
        has = f"is {tensor.dtype} {list(tensor.shape)}{fact and ', '}{fact}"
        value = f"is {show(keys.values[key])}" if key in keys.values else "is missing"
        raise FormatError(
            f"{self._at(module, suffix)} {has}, but in {keys.path} {keys.name}{key} {value}"
        )

    def check_shape(
        self,
        module: Module,
        suffix: str,
        shapes: Sequence[tuple[int, ...]],
        key: str,
        keys: Keys | None = None,
    ) -> None:
        """`shapes`: those that agree with a key of the config and the shape of the model."""
        if module.parts[suffix].shape not in shapes:
            wanted = f"not {list(shapes[0])} for {module.n_rows} x {module.n_cols} weights"
            self.differ(module, suffix, key, wanted, keys)

    def reorders(self, module: Module, suffix: str, group: int) -> bool:
        """Whether a tensor of groups by column says more than column / group. FormatError for a
        group that is not there."""
        found = self.raw(module, suffix, "<i4")
        n_groups = -(-module.n_cols // group)
        if found.size != module.n_cols:
            self.fail(module, suffix, f"has {found.size} numbers for {module.n_cols} columns")
        if found.min() < 0 or found.max() >= n_groups:
            at = int(np.argmax((found < 0) | (found >= n_groups)))
            fact = f"puts column {at} into group {found[at]}; there are {n_groups} groups"
            self.fail(module, suffix, fact)
        return not np.array_equal(found, np.arange(module.n_cols) // group)

    def ignore(self, module: Module, suffix: str) -> None:
        """The tensor is there and says nothing."""
        self.companions.add(f"{module.name}.{suffix}")

    def raw(self, module: Module, suffix: str, dtype: str) -> NDArray[Any]:
        """The elements of a tensor in their order, as a NumPy dtype of the same size."""
        with named(self.checkpoint.folder):
            return module.parts[suffix].file.raw(f"{module.name}.{suffix}").view(dtype)

    def packed(
        self,
        module: Module,
        kind: str,
        format: str,
        roles: Mapping[str, str],
        group: int = 0,
        **options: Any,
    ) -> PackedInfo:
        """`roles`: role -> last word of the stored name. `options`: of `_core.Packed`. FormatError
        where dtypes or shapes of the parts do not fit."""
        if self.as_bf16:
            options["as_bf16"] = True
        if "weight" in module.parts and roles["codes"] != "weight":
            fact = f"is there beside {_full(module, roles['codes'])}, which is the same weight"
            self.fail(module, "weight", f"{fact}; one of them is left from another model")
        parts = {role: module.parts[suffix] for role, suffix in roles.items()}
        names = {role: f"{module.name}.{suffix}" for role, suffix in roles.items()}
        shape = (module.n_rows, module.n_cols)
        places = {role: (parts[role].file, names[role]) for role in roles}
        with named(self.checkpoint.folder):
            core = _core.Packed(kind, shape, places, **options)
        name = f"{module.name}.weight"
        return PackedInfo(name, kind, format, shape, parts, names, core, group, options)

    def _at(self, module: Module, suffix: str) -> str:
        file = os.path.basename(module.parts[suffix].file.path)
        where = f"{shown_path(self.checkpoint.folder)}: {printable(file)}"
        return f"{where}: tensor {_full(module, suffix)}"


def _full(module: Module, suffix: str) -> str:
    return printable(f"{module.name}.{suffix}", _MAX_SHOWN)


def modules(
    checkpoint: Checkpoint, shapes: Iterable[tuple[str, tuple[int, ...]]]
) -> Iterator[Module]:
    """The matrices among the tensors of a model, by what is stored of each."""
    parts: dict[str, dict[str, TensorInfo]] = {}
    for name, tensor in checkpoint.tensors.items():
        module, _, suffix = name.rpartition(".")
        parts.setdefault(module, {})[suffix] = tensor
    for name, shape in shapes:
        module = name.removesuffix(".weight")
        if module != name and len(shape) == 2:
            yield Module(module, *shape, parts.get(module, {}))
