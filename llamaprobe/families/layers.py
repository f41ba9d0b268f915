"""How each layer of a family attends: windows, and which table of RoPE turns it.

Each function is a rule of transformers 5 that a family of table.py names. layer_types of config.json,
where the class reads it, wins over its pattern.
"""

from collections.abc import Callable

from .family import Kind
from .keys import Keys

FULL, SLIDING = "full_attention", "sliding_attention"
_OLD_FULL = "attention"
_MOST = 1 << 31

Rule = Callable[[Keys, int], list[Kind]]


def every_key(keys: Keys, n_layers: int) -> list[Kind]:
    """No windows; a file that says otherwise is of another model."""
    windowed = keys.values.get("use_sliding_window") is not False
    if keys.values.get("sliding_window") is not None and windowed:
        keys.refuse("sliding_window", "only attention over all earlier tokens can be run")
    if any(kind != FULL for kind in keys.strings("layer_types")):
        keys.refuse("layer_types", f'only "{FULL}" can be run')
    return [Kind(None, FULL)] * n_layers


def one_window(keys: Keys, n_layers: int) -> list[Kind]:
    """sliding_window in every layer; layer_types is not read."""
    return [Kind(_window(keys), FULL)] * n_layers


def by_type(slides: Callable[[Keys, int], bool]) -> Rule:
    """Layers are full or slide; `slides` says which without layer_types."""

    def rule(keys: Keys, n_layers: int) -> list[Kind]:
        types = _types(keys, n_layers) or [
            SLIDING if slides(keys, i) else FULL for i in range(n_layers)
        ]
        if keys.values.get("sliding_window") is None and SLIDING in types:
            keys.fail("sliding_window", f'a number where a layer is "{SLIDING}"')
        return [Kind(_window(keys) if kind == SLIDING else None, kind) for kind in types]

    return rule


def every_nth_is_full(n: int) -> Callable[[Keys, int], bool]:
    return lambda keys, i: (i + 1) % n != 0


def sliding_window_pattern(default: int) -> Callable[[Keys, int], bool]:
    """Every sliding_window_pattern-th layer is full."""
    return lambda keys, i: (i + 1) % keys.integer("sliding_window_pattern", 1, 1024, default) != 0


def late_windows(keys: Keys, n_layers: int) -> list[Kind]:
    """Qwen: layers from max_window_layers on, if use_sliding_window is true."""
    if not keys.flag("use_sliding_window"):
        if SLIDING in _types(keys, n_layers):
            keys.fail("use_sliding_window", f'true where a layer is "{SLIDING}"')
        return [Kind(None, FULL)] * n_layers
    first = keys.integer("max_window_layers", 0, 1024)
    return by_type(lambda _, i: keys.values.get("sliding_window") is not None and i >= first)(
        keys, n_layers
    )


def no_rope_layers(keys: Keys, n_layers: int) -> list[Kind]:
    """SmolLM3: 1 in no_rope_layers turns a layer; the others may slide."""
    turned = keys.value("no_rope_layers", (list,), "a list of 0 and 1", None)
    if turned is None:
        every = keys.integer("no_rope_layer_interval", 1, 1024)
        turned = [int((i + 1) % every != 0) for i in range(n_layers)]
    if len(turned) < n_layers or any(type(i) is not int or i not in (0, 1) for i in turned):
        keys.fail("no_rope_layers", f"a list of {n_layers} numbers 0 or 1")
    slides = keys.flag("use_sliding_window") and keys.values.get("sliding_window") is not None
    kinds = by_type(lambda _, i: slides and not turned[i])(keys, n_layers)
    return [Kind(kind.window, kind.rope if turned[i] else None) for i, kind in enumerate(kinds)]


def full_layers_unturned(keys: Keys, n_layers: int) -> list[Kind]:
    """EXAONE 4: with windows, only layers that slide are turned."""
    if keys.values.get("sliding_window") is None:
        if any(kind != FULL for kind in _types(keys, n_layers) or [""]):
            keys.fail("layer_types", f'"{FULL}" for every layer where sliding_window is null')
        return [Kind(None, FULL)] * n_layers
    kinds = by_type(sliding_window_pattern(4))(keys, n_layers)
    return [Kind(kind.window, None if kind.rope == FULL else SLIDING) for kind in kinds]


def rope_by_name(keys: Keys, n_layers: int) -> list[Kind]:
    """Granite 4: attention in every layer, turned if position_embedding_type is "rope"."""
    types = _types(keys, n_layers)
    if not types or any(kind != FULL for kind in types):
        keys.refuse("layer_types", "Mamba layers cannot be run")
    turned = keys.text("position_embedding_type") == "rope"
    return [Kind(None, FULL if turned else None)] * n_layers


def _window(keys: Keys) -> int | None:
    """sliding_window; None also for one that no sequence fills."""
    window: int | None = keys.integer("sliding_window", 1, _MOST, None)
    longest = keys.integer("max_position_embeddings", 1, _MOST)
    return None if window is None or window >= longest else window


def _types(keys: Keys, n_layers: int) -> list[str]:
    """layer_types in today's names; [] without it."""
    types = [FULL if kind == _OLD_FULL else kind for kind in keys.strings("layer_types")]
    if types and len(types) != n_layers:
        keys.fail("layer_types", f"a list of {n_layers}, one for each layer")
    for kind in types:
        if kind not in (FULL, SLIDING):
            keys.refuse("layer_types", f'only "{FULL}" and "{SLIDING}" can be run')
    return types
