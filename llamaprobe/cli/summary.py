"""The summary that `llamaprobe run` shows: tokens, the shape and size of each value, and the
likeliest next tokens, as plain data and as text."""

from typing import TYPE_CHECKING, Any

from ..messages import counted, printable

if TYPE_CHECKING:
    from ..model import Model
    from ..run import Run

_N_NEXT = 5


def summary(model: "Model", run: "Run", points: list[str]) -> dict[str, Any]:
    """Plain data, ready for JSON.

    tokens: text pieces, None without a tokenizer. points: by name {"dtype", "shape", "rms"}; "rms"
    is None for a point outside of the layers, else a list with the root mean square of the finite
    values for each of "layers", None where no value is finite. next_tokens: the likeliest, as
    {"id", "text", "share"}, None where the logits were not kept or are not finite.
    """
    return {
        "model": str(model.path / (model.origin.file or "")),
        "prompt": run.prompt,
        "template_date": run.template_date,
        "tokens": None if run.tokens is None else list(run.tokens),
        "token_ids": run.token_ids.tolist(),
        "layers": list(run.layers),
        "points": {
            point: {
                "dtype": str(run[point].dtype),
                "shape": list(run[point].shape),
                "rms": _sizes(run, point),
            }
            for point in points
        },
        "next_tokens": _next_tokens(model, run) if "logits" in run.points else None,
    }


def print_summary(data: dict[str, Any]) -> None:
    pieces = data["tokens"] or [str(i) for i in data["token_ids"]]
    print(f"{counted(len(pieces), 'token')}: {printable(' | '.join(pieces), 2000)}")
    for name, point in data["points"].items():
        print(f"{name:<12}{point['dtype']} {point['shape']}")
    sizes = {n: point["rms"] for n, point in data["points"].items() if point["rms"] is not None}
    if sizes:
        print("root mean square\n" + "layer".rjust(5) + "".join(name.rjust(14) for name in sizes))
    for row, layer in enumerate(data["layers"] if sizes else ()):
        cells = ("" if size[row] is None else f"{size[row]:.6g}" for size in sizes.values())
        print(str(layer).rjust(5) + "".join(cell.rjust(14) for cell in cells))
    if data["next_tokens"] is not None:
        print("likeliest next tokens")
        for token in data["next_tokens"]:
            text = "" if token["text"] is None else f"  {token['text']!r}"
            print(f"{token['share']:#9.3g}  {token['id']:>6}{printable(text, 82)}")


def _sizes(run: "Run", point: str) -> list[float | None] | None:
    import numpy as np

    kept = run.layers_of(point)
    if not kept:
        return None
    sizes: list[float | None] = []
    for layer in run.layers:
        value = run[point, layer] if layer in kept else np.zeros(0, np.float32)
        finite = value[np.isfinite(value)].astype(np.float64)
        sizes.append(float(np.sqrt(np.mean(finite**2))) if finite.size else None)
    return sizes


def _next_tokens(model: "Model", run: "Run") -> list[dict[str, Any]] | None:
    """Of the last row of the logits, the likeliest first."""
    import numpy as np

    logits = run["logits"][-1].astype(np.float64)
    if not np.isfinite(logits).all():
        return None
    likely = np.argsort(-logits, kind="stable")[:_N_NEXT]
    share = np.exp(logits - logits.max())
    share /= share.sum()
    texts: list[Any] = model.origin.tokenizer.pieces(likely) or [None] * len(likely)
    return [
        {"id": token_id, "text": text, "share": float(share[token_id])}
        for token_id, text in zip(likely.tolist(), texts, strict=True)
    ]
