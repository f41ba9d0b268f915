"""llamaprobe lens: what the model would say after each layer."""

import argparse
import math

from .looking import add_looking_options, open_run, position, token
from .options import count, kept_layers


def add_parser(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "lens",
        help="show the likeliest next tokens after each layer",
        description="Applies the last norm and the head to the residual stream after each layer of "
        "a prompt (a logit lens) and shows the likeliest tokens. The last line, output, is what the "
        "model itself says.",
    )
    add_looking_options(parser)
    parser.add_argument(
        "--point",
        choices=("x", "x_mid", "x_out"),
        default="x",
        help="the residual stream before a layer (default), after its attention, or after it",
    )
    parser.add_argument(
        "--layers", type=kept_layers, metavar="0,3,5-7", help="default: all, and the output"
    )
    parser.add_argument(
        "--position", type=position, default=-1, metavar="N", help="default: -1, the last token"
    )
    parser.add_argument("--top", type=count, default=5, metavar="N", help="default: 5")
    parser.add_argument(
        "--token",
        type=token,
        action="append",
        metavar="T",
        help="only the logits of this token, a text that is one or id:N; may be repeated",
    )
    parser.set_defaults(run=run, usage_error=parser.error)


def run(args: argparse.Namespace) -> int:
    model, result = open_run(args, lambda model: [args.point, "x_out"])
    lens = model.lens(
        result,
        point=args.point,
        layers=args.layers,
        position=args.position,
        top=args.top,
        tokens=args.token,
    )
    if not args.json:
        print(lens)
        return 0
    from .json import print_json

    rows = [
        {
            "row": label,
            "point": point,
            "layer": layer,
            "tokens": [
                guess._asdict() | {"logit": _finite(guess.logit), "logprob": _finite(guess.logprob)}
                for guess in lens.top(i, 0)
            ],
        }
        for i, (label, (point, layer)) in enumerate(zip(lens.labels, lens.rows, strict=True))
    ]
    print_json({"position": lens.positions[0], "token": lens.tokens[0], "rows": rows})
    return 0


def _finite(number: float | None) -> float | None:
    return number if number is not None and math.isfinite(number) else None
