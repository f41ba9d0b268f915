"""What transformers computes: in true float64, and in float32 as its users run it.

`dtype=float64` alone is not a reference: RMSNorm, the rotary embedding and the softmax of eager
attention still go through float32. `observe_float64` replaces the first two and uses sdpa; the
angle of RoPE stays the float32 product that defines the model. Points that no module shows
(`DERIVED`) are computed with the same torch operations as inside the module that hides them.
torch is imported when a function needs it, so that `norm_error` and `bar` are there without it.
"""

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import models
import numpy as np

import llamaprobe as lp

Values = dict[str, np.ndarray]

EXPOSED = (
    *("x", "x_norm", "q", "k", "v", "q_rope", "k_rope", "scores", "pattern", "z", "attn_out"),
    *("x_mid", "x_mid_norm", "gate", "up", "act", "hidden", "mlp_out", "x_out"),
    *("final_norm", "logits"),
)
FLOOR = 1e-7
DERIVED = ("x_rms", "x_unit", "x_mid_rms", "x_mid_unit", "final_rms", "final_unit")


def norm_error(values: np.ndarray, truth: np.ndarray) -> float:
    """||values - truth|| / ||truth|| over finite entries; inf when the others are not the same."""
    values, truth = np.asarray(values, np.float64), np.asarray(truth, np.float64)
    if values.shape != truth.shape:
        raise ValueError(f"shapes differ: {values.shape} and {truth.shape}")
    finite = np.isfinite(truth)
    if not np.array_equal(values[~finite], truth[~finite], equal_nan=True):
        return np.inf
    difference = np.linalg.norm(values[finite] - truth[finite])
    if not np.isfinite(difference):
        return np.inf
    size = np.linalg.norm(truth[finite])
    return float(difference / size) if size else float(np.inf if difference else 0)


def bar(own_error: float, factor: float = 1.5) -> float:
    """How far from float64 a value may be, when transformers in float32 is `own_error` away."""
    return max(factor * own_error, FLOOR)


def errors(values: Values, truth: Values) -> dict[str, float]:
    """How far each exposed point in `truth` is off: a point of a layer, which has a leading axis of
    layers, in its worst layer. ValueError where the shapes differ."""
    for point in truth.keys() & set(EXPOSED):
        if values[point].shape != truth[point].shape:
            raise ValueError(f"{point}: {values[point].shape} is not {truth[point].shape}")
    return {
        point: norm_error(values[point], truth[point])
        if point in ("final_norm", "logits")
        else max(map(norm_error, values[point], truth[point]))
        for point in EXPOSED
        if point in truth
    }


def over_the_bar(found: dict[str, float], own: dict[str, float], factor: float = 1.5) -> list[str]:
    """One line for each point whose error is more than the bar allows, given transformers' own."""
    return [
        f"{point}: {error:.2e}, transformers {own[point]:.2e}"
        for point, error in found.items()
        if not error <= bar(own[point], factor)
    ]


def wide_config(width: int, n_layers: int) -> dict[str, Any]:
    """config.json with the sizes of real models: d_model `width`, heads of 64 or 128, four query
    heads to a kv head where that divides them, an MLP 8/3 as wide."""
    head_dim = 128 if width >= 2048 else 64
    n_heads = width // head_dim
    return models.make_config(
        hidden_size=width,
        intermediate_size=width * 8 // 3 // 64 * 64,
        num_hidden_layers=n_layers,
        num_attention_heads=n_heads,
        num_key_value_heads=n_heads if n_heads % 4 else n_heads // 4,
        head_dim=head_dim,
        vocab_size=1000,
        max_position_embeddings=512,
    )


def ratios(folder: Path, token_ids: Sequence[int]) -> dict[str, float]:
    """Point -> our error by that of transformers in float32, where the latter is above FLOOR."""
    expected, own = observe(folder, token_ids)
    run = lp.load(folder).run(list(token_ids), points=list(EXPOSED))
    ours, theirs = errors({p: run[p] for p in EXPOSED}, expected), errors(own, expected)
    return {point: ours[point] / theirs[point] for point in ours if theirs[point] > FLOOR}


def off_the_formula(values: Values, eps: float) -> list[str]:
    """One line for each half of a norm that does not follow from the x it was computed from: both
    are a float64 number rounded to float32, or a product of one, so 1e-7 is one rounding or two."""
    lines = []
    for stem, x in (("x", values["x"]), ("x_mid", values["x_mid"]), ("final", values["x_out"][-1])):
        x = x.astype(np.float64)
        rms = np.sqrt(np.mean(x * x, axis=-1) + eps)
        for point, expected in ((f"{stem}_rms", rms), (f"{stem}_unit", x / rms[..., None])):
            error = norm_error(values[point], expected)
            if not error <= 1e-7:
                lines.append(f"{point}: {error:.2e}")
    return lines


def available() -> bool:
    """Are torch and transformers installed?"""
    return all(importlib.util.find_spec(name) for name in ("torch", "transformers"))


def observe(folder: Path, token_ids: Sequence[int]) -> tuple[Values, Values]:
    """Every point of one prompt, from float64 and from float32 transformers, in our shapes."""
    model = _load(folder)
    own = _observe(model, token_ids)
    model.set_attn_implementation("eager")
    own["pattern"] = _observe(model, token_ids)["pattern"]
    model.set_attn_implementation("sdpa")
    with _float64(model):
        truth = _observe(model, token_ids)
    return truth, own


def inv_freq(folder: Path) -> np.ndarray:
    """float32 [head_dim / 2] as transformers computes it on this CPU."""
    return _load(folder).model.rotary_emb.inv_freq.numpy()


def _load(folder: Path) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    # transformers requires hidden_size to be a multiple of the heads also where head_dim is given
    checks = [c for c in LlamaConfig.__class_validators__ if c.__name__ != "validate_architecture"]
    with mock.patch.object(LlamaConfig, "__class_validators__", checks):
        model = LlamaForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="sdpa", local_files_only=True
        )
    return model.eval()


@contextmanager
def _float64(model: Any) -> Iterator[None]:
    """The model in float64 with nothing in it that goes back to float32."""
    import torch
    from transformers.models.llama import modeling_llama

    def norm(self: Any, x: Any) -> Any:
        mean = x.pow(2).mean(-1, keepdim=True)
        return self.weight * (x * torch.rsqrt(mean + self.variance_epsilon))

    def rotary(self: Any, x: Any, position_ids: Any) -> Any:
        angle = position_ids[..., None].float() * self.inv_freq.float()
        angle = torch.cat((angle, angle), dim=-1).double()
        return angle.cos(), angle.sin()

    with (
        mock.patch.object(modeling_llama.LlamaRMSNorm, "forward", norm),
        mock.patch.object(modeling_llama.LlamaRotaryEmbedding, "forward", rotary),
    ):
        model.double()
        yield


def _observe(model: Any, token_ids: Sequence[int]) -> Values:
    import torch
    from transformers.models.llama import modeling_llama

    seen: dict[str, list[Any]] = {}
    turn = modeling_llama.apply_rotary_pos_emb

    def rotate(q: Any, k: Any, *args: Any, **kwargs: Any) -> Any:
        q, k = turn(q, k, *args, **kwargs)
        seen.setdefault("q_rope", []).append(q[0].transpose(0, 1))
        seen.setdefault("k_rope", []).append(k[0].transpose(0, 1))
        return q, k

    hooks = _hook_all(model, seen)
    try:
        with (
            torch.inference_mode(),
            mock.patch.object(modeling_llama, "apply_rotary_pos_emb", rotate),
        ):
            model(torch.tensor([list(token_ids)]), use_cache=False)
            _derive(model, seen)
    finally:
        for hook in hooks:
            hook.remove()
    once = ("final_norm", "logits", "final_rms", "final_unit")
    return {p: (v[0] if p in once else torch.stack(v)).numpy() for p, v in seen.items()}


def _hook_all(model: Any, seen: dict[str, list[Any]]) -> list[Any]:
    """Hooks that append what each module takes or gives to `seen`, layer by layer."""
    hooks = []

    def keep(point: str, value: Any, heads: int) -> None:
        value = value[0]
        shaped = value.reshape(len(value), heads, -1) if heads else value
        seen.setdefault(point, []).append(shaped.clone())

    def before(module: Any, point: str, heads: int = 0) -> None:
        hooks.append(module.register_forward_pre_hook(lambda _, args: keep(point, args[0], heads)))

    def after(module: Any, point: str, heads: int = 0) -> None:
        def hook(_: Any, args: Any, out: Any) -> None:
            keep(point, out, heads)

        hooks.append(module.register_forward_hook(hook))

    for layer in model.model.layers:
        _hook_layer(model.config, layer, before, after)
        pattern = layer.self_attn.register_forward_hook(lambda _, args, out: _pattern(seen, out))
        hooks.append(pattern)
    after(model.model.norm, "final_norm")
    before(model.model.norm, "final_x")
    after(model.lm_head, "logits")
    return hooks


def _hook_layer(
    config: Any, layer: Any, before: Callable[..., None], after: Callable[..., None]
) -> None:
    n_heads, n_kv_heads = config.num_attention_heads, config.num_key_value_heads
    before(layer, "x")
    after(layer.input_layernorm, "x_norm")
    after(layer.self_attn.q_proj, "q", n_heads)
    after(layer.self_attn.k_proj, "k", n_kv_heads)
    after(layer.self_attn.v_proj, "v", n_kv_heads)
    before(layer.self_attn.o_proj, "z", n_heads)
    after(layer.self_attn.o_proj, "attn_out")
    before(layer.post_attention_layernorm, "x_mid")
    after(layer.post_attention_layernorm, "x_mid_norm")
    after(layer.mlp.gate_proj, "gate")
    after(layer.mlp.up_proj, "up")
    after(layer.mlp.act_fn, "act")
    before(layer.mlp.down_proj, "hidden")
    after(layer.mlp, "mlp_out")
    after(layer, "x_out")


def _pattern(seen: dict[str, list[Any]], out: Any) -> None:
    if out[1] is not None:  # eager attention only
        seen.setdefault("pattern", []).append(out[1][0].clone())


def _derive(model: Any, seen: dict[str, list[Any]]) -> None:
    """What modules hide: the two halves of a norm, the scores, and the pattern where sdpa ran."""
    import torch

    eps = model.config.rms_norm_eps
    for stem, points in (("x", "x"), ("x_mid", "x_mid"), ("final", "final_x")):
        for x in seen[points]:
            mean = x.pow(2).mean(-1, keepdim=True) + eps
            seen.setdefault(f"{stem}_rms", []).append(mean.sqrt()[:, 0])
            seen.setdefault(f"{stem}_unit", []).append(x * torch.rsqrt(mean))
    del seen["final_x"]
    scores = []
    for q, k, attention in zip(seen["q_rope"], seen["k_rope"], model.model.layers, strict=True):
        attention = attention.self_attn
        k = k.repeat_interleave(attention.num_key_value_groups, dim=1)
        score = torch.matmul(q.transpose(0, 1), k.permute(1, 2, 0)) * attention.scaling
        later = torch.ones(score.shape[1:], dtype=torch.bool).triu(1)
        scores.append(score.masked_fill(later, -torch.inf))
    seen["scores"] = scores
    seen.setdefault("pattern", [torch.softmax(score, -1) for score in scores])
