"""What transformers computes in a model of any family, in true float64.

`model.double()` alone is not a reference: norms, the softmax of eager attention and the rotary embedding
still go through float32. While the model runs here, the names by which its code asks for float32 mean
float64, except within the rotary embedding, whose float32 product is the angle that defines the
model. What no module shows (scores, turned q and k) is seen where eager attention takes it.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from llamaprobe.config import Config
from llamaprobe.families.tensors import matrix

Values = dict[str, np.ndarray]
Seen = dict[str, list[Any]]

_HEADS_FIRST = ("gemma3_text", "exaone4")  # their norms of q and k give [H, T, h]


def observe_family(
    folder: Path | Any, config: Config, token_ids: Sequence[int], in_float64: bool = True
) -> Values:
    """Every point that can be seen of one prompt; points of a layer have a leading axis. Else in
    float32, as its users run it. `folder`: of the model, or what `from_pretrained` gives."""
    import torch

    model = _load(folder) if isinstance(folder, Path) else folder
    seen: Seen = {}
    with ExitStack() as stack:
        if in_float64:
            stack.enter_context(_float64(model.double()))
        stack.enter_context(_attention(model, seen))
        for hook in _hooks(model, config, seen):
            stack.callback(hook.remove)
        with torch.inference_mode():
            seen["logits"] = [model(torch.tensor([list(token_ids)]), use_cache=False).logits[0]]
    once = ("final_norm", "logits_raw", "logits")
    values = {p: (v[0] if p in once else torch.stack(v)).numpy() for p, v in seen.items()}
    dtype = np.float64 if in_float64 else np.float32
    assert all(value.dtype == dtype for value in values.values())
    return {point: _in_our_shape(config, point, value) for point, value in values.items()}


def _load(folder: Path) -> Any:
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", local_files_only=True
    )
    return model.eval()


@contextmanager
def _float64(model: Any) -> Iterator[None]:
    import torch

    real_float, real_cos, real_sin = (
        torch.Tensor.float,
        torch.Tensor.cos,
        torch.Tensor.sin,
    )
    float32 = torch.float32

    def keep(self: Any) -> Any:
        return self if self.dtype == torch.float64 else real_float(self)

    def rotary(forward: Any) -> Any:
        def run(*args: Any, **kwargs: Any) -> Any:
            with (
                mock.patch.object(torch, "float32", float32),
                mock.patch.object(torch.Tensor, "float", real_float),
                mock.patch.object(torch.Tensor, "cos", lambda angle: real_cos(angle.double())),
                mock.patch.object(torch.Tensor, "sin", lambda angle: real_sin(angle.double())),
            ):
                return forward(*args, **kwargs)

        return run

    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(torch, "float32", torch.float64))
        stack.enter_context(mock.patch.object(torch.Tensor, "float", keep))
        for module in model.modules():
            if type(module).__name__.endswith("RotaryEmbedding"):
                stack.enter_context(mock.patch.object(module, "forward", rotary(module.forward)))
        yield


@contextmanager
def _attention(model: Any, seen: Seen) -> Iterator[None]:
    """Sees q and k as eager attention gets them, the scores before and after a cap, the pattern."""
    import torch

    code = sys.modules[type(model).__module__]
    attend, softmax, tanh = (
        code.eager_attention_forward,
        torch.nn.functional.softmax,
        torch.tanh,
    )

    def seen_tanh(x: Any) -> Any:
        if x.dim() == 4:
            seen.setdefault("capped", []).append(x[0].clone())
        return tanh(x)

    def seen_softmax(x: Any, *args: Any, **kwargs: Any) -> Any:
        seen.setdefault("scores", []).append(
            x[0].masked_fill(x[0] < torch.finfo(x.dtype).min / 2, -torch.inf)
        )
        return softmax(x, *args, **kwargs)

    def run(module: Any, q: Any, k: Any, *args: Any, **kwargs: Any) -> Any:
        seen.setdefault("q_rope", []).append(q[0].transpose(0, 1).clone())
        seen.setdefault("k_rope", []).append(k[0].transpose(0, 1).clone())
        with (
            mock.patch.object(torch.nn.functional, "softmax", seen_softmax),
            mock.patch.object(torch, "tanh", seen_tanh),
        ):
            out, pattern = attend(module, q, k, *args, **kwargs)
        seen.setdefault("pattern", []).append(pattern[0].clone())
        if seen.get("capped"):
            raw = seen.pop("capped")[0] * kwargs["softcap"]
            later = torch.isneginf(seen["scores"][-1])
            seen.setdefault("scores_raw", []).append(raw.masked_fill(later, -torch.inf))
        return out, pattern

    with mock.patch.object(code, "eager_attention_forward", run):
        yield


def _hooks(model: Any, config: Config, seen: Seen) -> Iterator[Any]:
    def keep(point: str, value: Any) -> None:
        seen.setdefault(point, []).append(value[0].clone())

    def takes(module: Any, point: str) -> Any:
        return module.register_forward_pre_hook(
            lambda _, args, kwargs: keep(point, args[0] if args else kwargs["x"]),
            with_kwargs=True,
        )

    def gives(module: Any, point: str, rows: slice = slice(None)) -> Any:
        return module.register_forward_hook(lambda _, __, out: keep(point, out[..., rows]))

    for layer in model.model.layers:
        yield takes(layer, "x")
        yield layer.register_forward_hook(
            lambda _, __, out: keep("x_out", out[0] if isinstance(out, tuple) else out)
        )
        for point in config.linears:
            m = matrix(config, point)
            rows = slice(m.first_row, m.first_row + m.n_rows)
            yield gives(layer.get_submodule(m.module), point, rows)
        yield takes(layer.get_submodule(config.linears["attn_out"]), "z")
        yield takes(layer.get_submodule(config.linears["mlp_out"]), "hidden")
        for point, module in config.norms.items():
            yield gives(layer.get_submodule(module), point)
        mlp = layer.get_submodule(config.linears["gate"].partition(".")[0])
        yield takes(layer.get_submodule(config.norms.get("x_mid_norm", "mlp")), "x_mid")
        names = [n for n in ("act_fn", "activation_fn", "activation") if hasattr(mlp, n)]
        yield gives(getattr(mlp, names[0]), "act")
    yield gives(model.model.norm, "final_norm")
    if config.logits_divisor != 1 or config.logits_cap:
        yield gives(model.lm_head, "logits_raw")


def _in_our_shape(config: Config, point: str, value: np.ndarray) -> np.ndarray:
    if point in ("q_norm", "k_norm") and config.family in _HEADS_FIRST:
        return value.swapaxes(1, 2)
    if point in ("q", "k", "v", "z", "q_norm", "k_norm"):
        return value.reshape(*value.shape[:2], -1, config.head_dim)
    return value
