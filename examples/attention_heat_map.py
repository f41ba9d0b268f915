"""An attention pattern as a heat map, an SVG file that every browser shows. Needs no plotting library.

    python examples/attention_heat_map.py [MODEL] [PROMPT] [LAYER] [HEAD] [FILE]

Rows are queries, columns are keys: the darker a cell, the more of the key's value its query takes.
"""

import sys
from html import escape
from pathlib import Path

import numpy as np

import llamaprobe as lp

CELL = 14  # pixels
LABELS = 124  # pixels left of and above the cells
FAINTEST = 0.005  # a weight below this is not drawn

# The demo's head that copies a name: from each token of it to the token that followed before.
DEMO = "Once upon a time there was a miller named Hopoa who lived behind the hills. So the heavy bell came back to Hopoa"


def heat_map(pattern: np.ndarray, tokens: list[str], title: str) -> str:
    """The SVG text of `pattern`, float32 [n_tokens, n_tokens]."""
    size = LABELS + CELL * len(tokens) + 8
    width = max(size, 16 + 6 * len(title))  # room for the title
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {size}" width="{width}" '
        f'height="{size}" font-family="sans-serif" font-size="10">',
        f'<rect width="{width}" height="{size}" fill="white"/>',
        f"<title>{escape(title)}</title>",
        f'<text x="8" y="14">{escape(title)}</text>',
    ]
    for i, token in enumerate(tokens):
        at = LABELS + CELL * i + CELL - 4
        name = escape(token.strip() or "␣")
        lines.append(f'<text x="{LABELS - 4}" y="{at}" text-anchor="end">{name}</text>')
        lines.append(f'<text transform="translate({at} {LABELS - 4}) rotate(-90)">{name}</text>')
    lines.append('<g fill="#08306b">')
    for query, key in np.argwhere(pattern >= FAINTEST):
        lines.append(
            f'<rect x="{LABELS + CELL * key}" y="{LABELS + CELL * query}" width="{CELL - 1}" '
            f'height="{CELL - 1}" fill-opacity="{pattern[query, key]:.2f}"/>'
        )
    return "\n".join([*lines, "</g>", "</svg>"]) + "\n"


def main(
    source: str = "demo",
    prompt: str = DEMO,
    layer: str = "3",
    head: str = "1",
    path: str = "pattern.svg",
) -> None:
    model = lp.load(source)
    run = model.run(prompt, points="pattern", layers=int(layer))
    tokens = run.tokens or [str(number) for number in run.token_ids]
    title = f"pattern of layer {layer}, head {head}: each query (row) and the keys it attends to"
    Path(path).write_text(heat_map(run["pattern", int(layer)][int(head)], tokens, title), "utf-8")
    print(path)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except (lp.Error, IndexError) as error:  # such as a layer or a head that the model lacks
        sys.exit(f"{Path(__file__).name}: {error}")
