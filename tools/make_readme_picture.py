"""Draws the pictures of README.md from the demo model:

python tools/make_readme_picture.py [FOLDER]

pattern.svg is by examples/attention_heat_map.py, and its bytes are the same on every machine.
heads.svg and lens.svg are by llamaprobe.plot; their bytes depend on matplotlib and its fonts.
"""

import io
import re
import runpy
import sys
from pathlib import Path

REPO = Path(__file__).parent.parent
STORY = "Once there was a miller named Hopoa. So the bell came back to H"


def draw(path: Path) -> None:
    """Writes pattern.svg."""
    example = runpy.run_path(str(REPO / "examples" / "attention_heat_map.py"))
    example["main"](path=str(path))


def draw_plots(folder: Path) -> None:
    """Writes heads.svg and lens.svg."""
    import matplotlib

    import llamaprobe as lp

    model = lp.load("demo")
    run = model.run(STORY, points=("x", "x_out", "logits", "pattern"))
    figures = {
        "heads": lp.plot.pattern(run, 3),
        "lens": lp.plot.lens(model.lens(run, position=slice(-8, None))),
    }
    # texts as texts, and no date: small files, which a second run leaves as they are
    rc = {"svg.fonttype": "none", "svg.hashsalt": "llamaprobe", "font.sans-serif": ["DejaVu Sans"]}
    with matplotlib.rc_context(rc):
        for name, figure in figures.items():
            data = io.StringIO()
            figure.savefig(data, format="svg", metadata={"Date": None})
            text = re.sub(r"\s*<!--.*?-->\s*|(?<=>)\s+(?=<)", "\n", data.getvalue())
            (folder / f"{name}.svg").write_text(text)


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else REPO / "docs"
    draw(target / "pattern.svg")
    draw_plots(target)
