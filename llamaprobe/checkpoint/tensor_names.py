"""The tensors of a model by Hugging Face name: used, unused and missing ones.

A tensor that no operation uses suggests that config.json describes another model. It is refused in
a part that runs (a layer, the embeddings, the last norm, the head) and if it belongs to a LoRA;
others (layers beyond num_hidden_layers, a second head, a vision tower) give a warning. Buffers of
old rotary embeddings are ignored: config.json has their numbers.
"""

import difflib
import fnmatch
import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from ..arguments import is_iterable, refusal
from ..config import Config, tensors
from ..errors import ArgumentError, FormatError
from ..families.tensors import layer_prefix
from ..messages import counted, printable

EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"

_SHOWN = 6  # names in a message
_COMPARED = 2000  # names compared by edit distance, at most
_LAYER = re.compile(r"(?:language_model\.)?model\.layers\.([0-9]{1,9})\.")
_RUN = ("model.", "lm_head.")  # prefixes of the decoder's tensors
_SCALE = re.compile(r"\.weight_scale(_inv|_2)?$")
_LORA = re.compile(r"lora_|\.base_layer\.|(^|\.)(dora|ia3|vera)_")
_LEFTOVER = re.compile(
    r"model\.(layers\.[0-9]+\.self_attn\.)?rotary_emb\."
    r"(original_)?(inv_freq|cos_cached|sin_cached)"
)
# Prefixes of otherwise correct names -> what saved them, and the way out.
_WRAPPERS = {
    "_orig_mod.": "saved from a compiled model: save model._orig_mod instead",
    "module.": "saved from a wrapped model: save model.module instead",
    "base_model.model.": "saved from a PEFT model: save model.merge_and_unload() instead",
}
# Other checkpoint formats, by the names of their tensors.
_OTHER_FORMATS = {
    re.compile(r"(.*\.)?(tok_embeddings|wq|wk|wv|feed_forward\.w[123])\.weight"): (
        "Meta's names; convert it with transformers"
    ),
    re.compile(r".*\.(qkv_proj|query_key_value|c_attn|W_pack|qkv|gate_up_proj)\.weight"): (
        "fused, unlike any Llama in transformers"
    ),
}

# Last parts of the names of tensors that hold codes.
_CODES = ("qweight", "weight_packed", "W_q", "B")


def layer_tensors(config: Config, layer: int) -> list[str]:
    """The names of one layer's tensors."""
    of_layer = [name for name, _, _, is_of_layer in tensors(config) if is_of_layer]
    return [layer_prefix(config, layer) + name for name in of_layer]


def used_tensors(config: Config) -> list[str]:
    """The names of all tensors that a run may use, the head unless `config.tied_head`."""
    names: list[str] = []
    for name, _, _, is_of_layer in tensors(config):
        layers = range(config.n_layers) if is_of_layer else ()
        names += [layer_prefix(config, i) + name for i in layers] or [name]
    return names


# ---- unused tensors ----


@dataclass(frozen=True)
class Unused:
    """The tensors that no operation uses, except leftover buffers and layers not opened."""

    refused: tuple[str, ...]
    """Those in a part that runs, and those of a LoRA, unless a glob of `ignore` matches."""
    others: tuple[str, ...]
    """The others that no glob matches."""
    names: tuple[str, ...]
    """All, whether a glob matches or not, in the order of the files."""

    def refusal(self, config: Config) -> str:
        """Why the model cannot run as its config describes it; "" if it can."""
        if not self.refused:
            return ""
        n, reasons = len(self.refused), [""]
        source = "its metadata describe" if "gguf" in config.raw else "config.json describes"
        for flag, value, module in (
            ("attention_bias", config.attention_bias, ".self_attn."),
            ("mlp_bias", config.mlp_bias, ".mlp."),
        ):
            if not value and any(module in t and t.endswith("_proj.bias") for t in self.refused):
                reasons.append(f"{flag} is not true in config.json")
        if any(_LORA.search(name) for name in self.refused):
            reasons.append("a LoRA has to be merged into its weights first")
        if "quantization_config" not in config.raw and any(map(_SCALE.search, self.refused)):
            reasons.append(
                "scales come with quantised weights, but config.json has no quantization_config"
            )
        return (
            f"holds {counted(n, 'tensor')} that a run does not use, so {source}"
            f" another model: {_grouped(self.refused)}{'; '.join(reasons)}; ignore= of load"
            " (--ignore GLOB) ignores them"
        )

    def warning(self, config: Config) -> str:
        """A warning about the others; "" if there are none."""
        if not self.others:
            return ""
        n = len(self.others)
        beyond = any(_LAYER.match(name) for name in self.others)
        layers = f" (num_hidden_layers is {config.n_layers})" if beyond else ""
        return (
            f"{counted(n, 'tensor')} of its weights {'is' if n == 1 else 'are'} not used:"
            f" {_grouped(self.others)}{layers}; ignore= of load (--ignore GLOB) turns this warning"
            " off"
        )


def find_unused(
    config: Config, held: Collection[str], ignore: Sequence[str] = (), n_layers: int | None = None
) -> Unused:
    """Classify the tensors of `held` that `config` does not use.

    n_layers: of the whole model, if `config` has only its first layers; the later ones are not
    reported. Raises ArgumentError for a glob of `ignore` that matches no unused tensor.
    """
    used, run = set(used_tensors(config)), tuple(config.prefix + part for part in _RUN)
    n_whole = config.n_layers if n_layers is None else n_layers
    unused = [name for name in held if name not in used]
    ignored: set[str] = set()
    for glob in ignore:
        matched = _matched(unused, glob)
        if not matched:
            raise ArgumentError(_matches_nothing(glob, held, unused))
        ignored |= set(matched)
    sorts: dict[bool, list[str]] = {True: [], False: []}
    names = []
    for name in unused:
        layer = _LAYER.match(name)
        number = int(layer[1]) if layer else None
        is_closed = number is not None and config.n_layers <= number < n_whole
        if is_closed or _LEFTOVER.fullmatch(name):
            continue
        names.append(name)
        if name in ignored:
            continue
        is_run = name.startswith(run) and (number is None or number < config.n_layers)
        sorts[is_run or _LORA.search(name) is not None].append(name)
    return Unused(tuple(sorts[True]), tuple(sorts[False]), tuple(names))


def read_globs(ignore: Any) -> tuple[str, ...]:
    """`ignore` of load: one glob or several. ArgumentError."""
    globs = (ignore,) if isinstance(ignore, str) else ignore
    if is_iterable(globs) and not isinstance(globs, bytes):
        found = tuple(globs)
        if all(isinstance(glob, str) and glob for glob in found):
            return found
    raise refusal("ignore", ignore, "a glob over names of tensors, or several")


def _matched(names: Collection[str], glob: str) -> list[str]:
    return [name for name in names if fnmatch.fnmatchcase(name, glob)]


def _matches_nothing(glob: str, held: Collection[str], unused: Sequence[str]) -> str:
    matches = f"ignore {printable(repr(glob))} matches"
    if in_use := _matched(held, glob):
        return f"{matches} only tensors in use, such as {printable(in_use[0])}"
    example = f"an unused one is {printable(unused[0])}" if unused else "all of them are used"
    return f"{matches} none of {counted(len(held), 'tensor')}; {example}"


def _grouped(names: Sequence[str]) -> str:
    """The names, merged over layers: "model.layers.*.mlp.up_proj.bias (3 layers)"."""
    times = Counter(_any_layer(name) for name in names)
    single = {_any_layer(name): name for name in names}
    shown = [
        printable(single[group], 100) if n == 1 else f"{printable(group, 100)} ({n} layers)"
        for group, n in list(times.items())[:_SHOWN]
    ]
    more = len(times) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def _any_layer(name: str) -> str:
    return _LAYER.sub(lambda found: found[0].replace(f".{found[1]}.", ".*."), name)


# ---- missing tensors ----


def check_complete(config: Config, held: Collection[str], where: str) -> None:
    """FormatError for a missing tensor. The message has `where`, and what the file has instead."""
    used = used_tensors(config)
    for name in used:
        if name not in held:
            known = set(used)
            unused = [other for other in held if other not in known]
            other_model = "not a Llama" if config.family == "llama" else "of another model"
            raise FormatError(
                f"{where}: tensor {name} is missing; {_instead(name, held, unused)}"
                f"{_undeclared(config, name, unused)}; the checkpoint is incomplete or {other_model}"
            )


def _undeclared(config: Config, missing: str, unused: Collection[str]) -> str:
    """For codes without a quantization_config: GPTQ and AWQ use the same names."""
    module = missing.removesuffix("weight")
    if "quantization_config" in config.raw or not any(module + word in unused for word in _CODES):
        return ""
    return ", a quantised weight, but config.json has no quantization_config, which comes with it"


def _instead(missing: str, held: Collection[str], unused: Collection[str]) -> str:
    """What the file has instead of a missing tensor."""
    for look in (_under_a_prefix, _in_another_format, _in_its_module):
        if found := look(missing, unused):
            return f"the file has {found}"
    if missing.endswith(HEAD) and missing.removesuffix(HEAD) + EMBEDDING in held:
        return "it would be the embedding if tie_word_embeddings were true in config.json"
    layer = _LAYER.match(missing)
    numbers = {int(m[1]) for m in map(_LAYER.match, held) if m}
    if layer and numbers and int(layer[1]) not in numbers:
        return f"the file has {counted(len(numbers), 'layer')}, the last is {max(numbers)}"
    near = difflib.get_close_matches(missing, islice(held, _COMPARED), 1, 0.6)
    example = near[0] if near else next(iter(held), None)
    return f"the file has {printable(example, 100)}" if example else "the file has no tensor"


def _under_a_prefix(missing: str, held: Collection[str]) -> str:
    """The same name under another prefix, which all tensors then have."""
    tail = missing.removeprefix("model.")
    for name in held:
        if name != missing and (name == tail or name.endswith(f".{tail}")):
            prefix = name[: len(name) - len(tail)]
            why = next((fact for start, fact in _WRAPPERS.items() if prefix.startswith(start)), "")
            return printable(name, 100) + (f", {why}" if why else "")
    return ""


def _in_another_format(missing: str, held: Collection[str]) -> str:
    for pattern, fact in _OTHER_FORMATS.items():
        for name in held:
            if pattern.fullmatch(name) and _same_layer(name, missing):
                return f"{printable(name, 100)}: {fact}"
    return ""


def _same_layer(name: str, missing: str) -> bool:
    """False for a fused tensor of another part of the model."""
    layer = _LAYER.match(missing)
    return layer is None or not _LAYER.match(name) or name.startswith(layer[0])


def _in_its_module(missing: str, held: Collection[str]) -> str:
    """q_proj.qweight for q_proj.weight."""
    module = missing.rpartition(".")[0] + "."
    return next((printable(name, 100) for name in held if name.startswith(module)), "")
