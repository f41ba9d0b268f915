"""llamaprobe points: the capture points by name, with their shapes and formulas."""

import argparse
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from .options import MODEL_HELP, add_revision, location, revision_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..points import Point


def add_parser(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "points",
        help="list the values that a run can keep",
        description="Lists every value of the forward pass that has a name, in the order of "
        "computation: its shape (T is the number of tokens) and formula. No model has all of them; "
        "with MODEL the list and the shapes are its own. Names of TransformerLens and Hugging Face modules are understood too.",
    )
    parser.add_argument("model", metavar="MODEL", nargs="?", type=location, help=MODEL_HELP)
    parser.add_argument("--json", action="store_true", help="as a JSON list")
    add_revision(parser)
    parser.set_defaults(run=run, usage_error=parser.error)


def run(args: argparse.Namespace) -> int:
    from ..points import all_points, llama_points

    for option in ("revision", "file"):
        if args.model is None and getattr(args, option) is not None:
            args.usage_error(f"--{option} is for MODEL")
    sizes: dict[str, Any] = {}
    points = all_points()
    if args.model is not None:
        sizes, own = _facts(args.model, revision_of(args), args.file)
        points = tuple(replace(p, formula=own[p.name]) for p in points if p.name in own)
        points = points or llama_points()
    if args.json:
        return _print_json(points, sizes)
    shapes = [_shape(point, sizes) for point in points]
    width = max(map(len, shapes))
    for point, shape in zip(points, shapes, strict=True):
        print(f"{point.name:<10}  {shape:<{width}}  {point.formula}")
    return 0


def _facts(model: str, revision: str, file: str | None) -> tuple[dict[str, Any], dict[str, str]]:
    """The numbers of a model's config by name, and its points with their formulas, {} for a Llama;
    of a repo without downloading it."""
    from ..errors import UnsupportedError
    from .inspect import describe_source

    facts = describe_source(model, revision, file)
    if not facts.get("config"):
        raise UnsupportedError(
            f"{model}: {facts.get('cannot_run', 'a single file is not a model')}"
        )
    return dict(facts["config"]), facts.get("points", {})


def _print_json(points: "Sequence[Point]", sizes: dict[str, Any]) -> int:
    """One object for each point; its shape as a list, of numbers where they are known."""
    import json

    entries = [
        {
            "name": point.name,
            "shape": [_number(each) for each in _numbers(point, sizes).strip("[]").split(", ")],
            "per_layer": point.per_layer,
            "formula": point.formula,
        }
        for point in points
    ]
    print(json.dumps(entries, indent=1))
    return 0


def _number(text: str) -> int | str:
    return int(text) if text.isdigit() else text


def _shape(point: "Point", sizes: dict[str, Any]) -> str:
    """In words, or with a model's numbers: "[T, 576]"."""
    shape = _numbers(point, sizes)
    return shape if point.per_layer else f"{shape}, once"


def _numbers(point: "Point", sizes: dict[str, Any]) -> str:
    if sizes.get("qk_norm_whole") and point.name in ("q_rms", "k_rms"):
        return "[T]"
    return re.sub(r"[a-z_]+", lambda name: str(sizes.get(name[0], name[0])), point.shape)
