"""llamaprobe attribute: what each part of the model added to a logit."""

import argparse
from typing import TYPE_CHECKING, Any

from .looking import add_looking_options, open_run, position, token
from .options import count

if TYPE_CHECKING:
    from ..model import Model
    from ..run import Run

_FINER = {"layer": (), "head": ("z",), "neuron": ("hidden",), "source": ("pattern", "v")}


def add_parser(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "attribute",
        help="show what each part of the model added to the logit of a token",
        description="Splits the logit of a token at one position of a prompt into what the parts of "
        "the model added to it (direct logit attribution), with what float32 rounded away.",
    )
    add_looking_options(parser)
    parser.add_argument(
        "--token",
        type=token,
        metavar="T",
        help="a text that is one token, or id:N (default: the likeliest next token)",
    )
    parser.add_argument(
        "--against", type=token, metavar="T", help="the difference from this token's logit"
    )
    parser.add_argument(
        "--by", choices=tuple(_FINER), default="layer", help="the parts (default: layer)"
    )
    parser.add_argument(
        "--position", type=position, default=-1, metavar="N", help="default: -1, the last token"
    )
    parser.add_argument(
        "--top", type=count, default=12, metavar="N", help="so many rows, the largest (default: 12)"
    )
    parser.set_defaults(run=run, usage_error=parser.error)


def run(args: argparse.Namespace) -> int:
    from ..views.attribution import attribution_text

    model, result = open_run(args, lambda model: _points(model, args.by))
    found = model.attribute(
        result,
        _likeliest(model, result, args.position) if args.token is None else args.token,
        against=args.against,
        position=args.position,
        by=args.by,
    )
    if not args.json:
        print(attribution_text(found, args.top))
        return 0
    from .json import print_json

    shares = [
        {"part": share.name, "component": list(share.component), "value": share.value}
        for share in found.top(args.top)
    ]
    data: dict[str, Any] = {
        "position": found.position,
        "token": {"id": found.token_id, "text": found.token},
        "against": None
        if found.against_id is None
        else {"id": found.against_id, "text": found.against},
        "by": found.by,
        "total": found.total,
        "logit": found.logit,
        "rounding": found.rounding,
        "bound": found.bound,
        "shares": shares,
    }
    print_json(data)
    return 0


def _points(model: "Model", by: str) -> list[str]:
    """All that an attribution may need, as far as the model has it."""
    wanted = {"x", "x_out", "final_rms", "logits", "logits_raw", *_FINER[by]}
    wanted |= {f"{stem}_{part}" for stem in ("attn", "mlp") for part in ("out", "norm", "rms")}
    return [point.name for point in model.points() if point.name in wanted]


def _likeliest(model: "Model", run: "Run", position: int) -> int:
    return model.lens(run, layers=-1, point="x_out", position=position, top=1).top()[0].id
