"""What transformers computes in float64 when a row of one value is edited on the way, by its own means: hooks of
modules, a norm of one's own, an attention function of one's own.

The edit is that of `changed`: a row times 1.25 plus 0.125, keys that a query does not see left alone.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import family_truth
import numpy as np

from llamaprobe.config import Config
from llamaprobe.families.tensors import matrix

MAPS = ("scores", "pattern", "scores_raw")
_NORM_OF = {"x": "x_norm", "x_mid": "x_mid_norm", "q": "q_norm", "k": "k_norm"}
_NORM_OF |= {"attn": "attn_norm", "mlp": "mlp_norm"}


def changed(point: str, value: Any, row: int, xp: Any = np) -> Any:
    """A copy of a value in our shape, with the edit."""
    value = value.copy() if xp is np else value.clone()
    at = (slice(None), row) if point in MAPS else row
    seen = (value[at] > (0 if point == "pattern" else -1e30)) if point in MAPS else True
    value[at] = (
        xp.where(seen, value[at] * 1.25 + 0.125, value[at])
        if point in MAPS
        else (value[at] * 1.25 + 0.125)
    )
    return value


class Edited:
    """A model of transformers in float64; `run` edits one value."""

    def __init__(self, folder: Path, config: Config) -> None:
        self._model = family_truth._load(folder).double()
        self._config = config

    def run(self, ids: Sequence[int], point: str, layer: int, row: int) -> dict[str, np.ndarray]:
        """x_out of each layer and logits."""
        import torch

        model, found = self._model, []
        with ExitStack() as stack:
            stack.callback(torch.set_num_threads, torch.get_num_threads())
            torch.set_num_threads(1)  # threads of a model so small only wait for each other
            stack.enter_context(family_truth._float64(model))
            stack.enter_context(self._edit(point, layer, row))
            for module in model.model.layers:
                hook = module.register_forward_hook(lambda _, __, out: found.append(_first(out)[0]))
                stack.callback(hook.remove)
            with torch.inference_mode():
                logits = model(torch.tensor([list(ids)]), use_cache=False).logits[0]
            if point == "logits":
                logits = changed(point, logits, row, torch)
        return {"x_out": torch.stack(found).numpy(), "logits": logits.numpy()}

    @contextmanager
    def _edit(self, point: str, layer: int, row: int) -> Iterator[None]:
        import torch

        def change(value: Any) -> Any:
            return changed(point, value, row, torch)

        with ExitStack() as stack:
            for each in self._ways(point, layer, change, row):
                if hasattr(each, "remove"):
                    stack.callback(each.remove)
                else:
                    stack.enter_context(each)
            yield

    def _ways(
        self, point: str, layer: int, change: Callable[[Any], Any], row: int
    ) -> Iterator[Any]:
        config, model = self._config, self._model
        block = model.model.layers[layer]
        stem, _, part = point.rpartition("_")
        if point == "logits":
            return
        if point in ("x", "z", "hidden"):
            yield _takes(
                block
                if point == "x"
                else block.get_submodule(config.linears["attn_out" if point == "z" else "mlp_out"]),
                self._rows(change),
            )
        elif point == "x_out":
            yield block.register_forward_hook(lambda _, __, out: _replace(out, change))
        elif point == "x_mid":
            yield from self._x_mid(block, change)
        elif point in ("q_rope", "k_rope", "scores", "pattern"):
            yield self._attention(point, layer, row)
        elif point == "act":
            mlp = block.get_submodule(config.linears["gate"].partition(".")[0])
            name = next(n for n in ("act_fn", "activation_fn", "activation") if hasattr(mlp, n))
            yield _gives(getattr(mlp, name), self._rows(change))
        elif point in config.linears:
            m = matrix(config, point)
            rows = slice(m.first_row, m.first_row + m.n_rows)
            yield _gives(block.get_submodule(m.module), self._rows(change), rows)
        elif part in ("rms", "unit", "norm"):
            module = (
                model.model.norm
                if stem == "final"
                else block.get_submodule(config.norms[_NORM_OF[stem]])
            )
            yield self._norm(module, part, row, stem)
        else:
            raise NotImplementedError(point)

    def _rows(self, change: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """[1, T, ...], whatever follows: a row is a row."""
        return lambda value: change(value[0])[None]

    def _x_mid(self, block: Any, change: Callable[[Any], Any]) -> Iterator[Any]:
        """x_mid has no module: what is added to x is set to x_mid' - x."""
        config, held = self._config, []
        yield block.register_forward_pre_hook(
            lambda _, args, kwargs: held.append(_argument(args, kwargs)), with_kwargs=True
        )
        last = config.norms.get("attn_norm", config.linears["attn_out"])

        def replace(out: Any) -> Any:
            x, scale = held.pop(), config.residual_scale
            return (change((x + scale * out)[0])[None] - x) / scale

        yield _gives(block.get_submodule(last), replace)

    def _norm(self, module: Any, part: str, row: int, stem: str) -> Any:
        """The forward of one norm, in its parts."""
        import torch

        config = self._config
        heads_first = stem in ("q", "k") and config.family in family_truth._HEADS_FIRST

        def edit(value: Any, this: str) -> Any:
            if this != part:
                return value
            value = value.clone()
            at = (0, slice(None), row) if heads_first else (0, row)
            value[at] = value[at] * 1.25 + 0.125
            return value

        def forward(x: Any) -> Any:
            rms = torch.sqrt(x.pow(2).mean(-1) + config.rms_norm_eps)
            unit = edit(x / edit(rms, "rms")[..., None], "unit")
            return edit((module.weight + config.gain_offset) * unit, "norm")

        return mock.patch.object(module, "forward", forward)

    @contextmanager
    def _attention(self, point: str, layer: int, row: int) -> Iterator[None]:
        """Of one layer; the calls are counted."""
        import torch

        code = sys.modules[type(self._model).__module__]
        attend, softmax, calls = code.eager_attention_forward, torch.nn.functional.softmax, []

        def own_softmax(x: Any, *args: Any, **kwargs: Any) -> Any:
            x = changed("scores", x[0], row, torch)[None] if point == "scores" else x
            pattern = softmax(x, *args, **kwargs)
            return (
                changed("pattern", pattern[0], row, torch)[None] if point == "pattern" else pattern
            )

        def run(module: Any, q: Any, k: Any, *args: Any, **kwargs: Any) -> Any:
            calls.append(1)
            if len(calls) - 1 != layer:
                return attend(module, q, k, *args, **kwargs)
            if point in ("q_rope", "k_rope"):
                turned = (q if point == "q_rope" else k)[0].transpose(0, 1)
                turned = changed(point, turned, row, torch).transpose(0, 1)[None]
                q, k = (turned, k) if point == "q_rope" else (q, turned)
            with mock.patch.object(torch.nn.functional, "softmax", own_softmax):
                return attend(module, q, k, *args, **kwargs)

        with mock.patch.object(code, "eager_attention_forward", run):
            yield


def _argument(args: Any, kwargs: Any) -> Any:
    return args[0] if args else kwargs["x" if "x" in kwargs else "hidden_states"]


def _first(out: Any) -> Any:
    return out[0] if isinstance(out, tuple) else out


def _replace(out: Any, change: Callable[[Any], Any]) -> Any:
    new = change(_first(out)[0])[None]
    return (new, *out[1:]) if isinstance(out, tuple) else new


def _takes(module: Any, change: Callable[[Any], Any]) -> Any:
    def hook(_: Any, args: Any, kwargs: Any) -> Any:
        if args:
            return (change(args[0]), *args[1:]), kwargs
        name = "x" if "x" in kwargs else "hidden_states"
        return args, kwargs | {name: change(kwargs[name])}

    return module.register_forward_pre_hook(hook, with_kwargs=True)


def _gives(module: Any, change: Callable[[Any], Any], rows: slice = slice(None)) -> Any:
    def hook(_: Any, __: Any, out: Any) -> Any:
        out = out.clone()
        out[..., rows] = change(out[..., rows])
        return out

    return module.register_forward_hook(hook)
