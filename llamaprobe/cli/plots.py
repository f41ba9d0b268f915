"""llamaprobe run --plot KIND=FILE: pictures of the run, for people without a notebook."""

import argparse
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from .. import stderr

if TYPE_CHECKING:
    from ..model import Model
    from ..run import Run

_KINDS = "pattern:LAYER, pattern:LAYER.HEAD, norms[:POINT], channels[:POINT] or lens"
_PICTURE = re.compile(
    r"(?:pattern:(?P<layer>[0-9]{1,5})(?:\.(?P<head>[0-9]{1,5}))?"
    r"|(?P<kind>norms|channels)(?::(?P<point>\w+))?|(?P<lens>lens))=(?P<file>.+)",
    re.DOTALL,
)


class Plot(NamedTuple):
    """One picture: its kind, its arguments, and the file that it goes to."""

    kind: str
    arguments: tuple[Any, ...]
    points: tuple[str, ...]
    """That the run must hold."""
    file: str


def add_plots(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--plot",
        type=_plot,
        action="append",
        default=[],
        metavar="KIND=FILE",
        help=f"a picture into a file such as fig.png: {_KINDS}; may be repeated; needs matplotlib",
    )


def check_plots(args: argparse.Namespace) -> None:
    """No option is dropped silently, and nothing is computed for pictures that cannot be drawn."""
    if not args.plot:
        return
    if args.prompts is not None:
        args.usage_error("--plot is for one prompt, not for --prompts FILE")
    from ..plot.figures import matplotlib

    canvas = matplotlib("backend_bases").FigureCanvasBase
    endings = canvas.get_supported_filetypes()
    for plot in args.plot:
        if plot.file.rpartition(".")[2].lower() not in endings:
            known = ", ".join(sorted(endings))
            args.usage_error(f"--plot {plot.file}: the file name ends in none of {known}")


def points_for_plots(
    args: argparse.Namespace, points: list[str]
) -> tuple[list[str], list[int] | None]:
    """The points and layers of the run: with pictures also theirs, in all layers."""
    if not args.plot:
        return points, args.layers
    return [*points, *(point for plot in args.plot for point in plot.points)], None


def requested(args: argparse.Namespace, run: "Run", names: list[str]) -> list[str]:
    """The points of a run that these names mean: without those that only pictures need."""
    from ..points import resolve_all

    if not args.plot:
        return list(run.points)
    plain = [name for name in names if not name.endswith(".before")]
    meant = {point.name for _, point, _ in resolve_all(plain, run.config)} if plain else set()
    return [point for point in run.points if point in meant or point in names]


def draw_plots(model: "Model", run: "Run", args: argparse.Namespace) -> None:
    from .. import plot as pictures
    from ..files.atomic import file_error

    for plot in args.plot:
        if plot.kind == "lens":
            figure = pictures.lens(model.lens(run, position=None))
        else:
            figure = getattr(pictures, plot.kind)(run, *plot.arguments)
        try:
            figure.savefig(plot.file, dpi=120)
        except OSError as error:
            raise file_error(error, plot.file) from None
        stderr.say(f"llamaprobe: drew {plot.file}")


def _plot(text: str) -> Plot:
    match = _PICTURE.fullmatch(text)
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is not KIND=FILE with {_KINDS}")
    found = match.groupdict()
    if found["layer"] is not None:
        head = () if found["head"] is None else (int(found["head"]),)
        return Plot("pattern", (int(found["layer"]), *head), ("pattern",), found["file"])
    if found["lens"]:
        return Plot("lens", (), ("x", "x_out"), found["file"])
    point = found["point"] or "x"
    return Plot(found["kind"], (point,), (point,), found["file"])
