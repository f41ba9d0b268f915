"""Measures the demo and writes its model card, README.md."""

import json
import struct
from pathlib import Path

import numpy as np
from ablation import N_STORIES, ablation_table, copied_share, held_out_stories
from chats import render
from evaluate import (
    DATE,
    N_PROMPTS,
    Demo,
    attention_to_names,
    held_out_loss,
    make_prompts,
    share_answered,
    share_copied,
    span_loss,
    strongest,
)

import llamaprobe as lp

TEMPLATE = Path(__file__).with_name("card.md")
PROMPT = (
    "Once upon a time there was a miller named Hopoa who lived behind the hills. Hopoa had a heavy bell. "
    "A friend named Torsa owned a wooden clock. One night the heavy bell was gone. They looked under the "
    "bridge and on the roof. At last an owl found the heavy bell in the tall grass. So the heavy bell came "
    "back to"
)
QUESTION = "Tell me a story about Hopoa."


def write_card(folder: Path) -> None:
    """Write `folder`/README.md; takes about two minutes."""
    demo = Demo(folder)
    values = _facts(folder) | _copying(demo) | _attention(demo) | _examples(demo)
    values |= _ablation(folder, int(values["copy_layer"]), int(values["copy_head"]))
    (folder / "README.md").write_text(TEMPLATE.read_text().format(**values))
    print(json.dumps(values, indent=2))


def _facts(folder: Path) -> dict[str, str]:
    """What the file itself says: its size and how it was trained."""
    path = folder / "model.safetensors"
    with path.open("rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
    facts = header.pop("__metadata__")
    n_parameters = sum(int(np.prod(tensor["shape"])) for tensor in header.values())
    return facts | {
        "minutes": f"{int(facts['seconds']) / 60:.0f}",
        "millions": f"{int(facts['tokens']) / 1e6:.1f}",
        "parameters": f"{n_parameters:,}",
        "megabytes": f"{path.stat().st_size / 1e6:.2f}",
    }


def _copying(demo: Demo) -> dict[str, str]:
    prompts = make_prompts(demo, "copy")
    wild = make_prompts(demo, "wild", wild=1.0)
    long = make_prompts(demo, "long", n=100, long=True)
    two = [p for p in prompts if len(p.story.owners) == 2]
    loss, name_loss = held_out_loss(demo, prompts)
    shares = {
        "copied": share_copied(demo, prompts),
        "copied_two": share_copied(demo, two),
        "copied_wild": share_copied(demo, wild),
        "copied_long": share_copied(demo, long),
        "answered": share_answered(demo, prompts[:200]),
    }
    counts = {"n_prompts": N_PROMPTS, "n_two": len(two), "n_long": len(long), "n_answered": 200}
    losses = {"loss": loss, "name_loss": name_loss, "span_loss": span_loss(demo)}
    return (
        {name: f"{100 * share:.1f} %" for name, share in shares.items()}
        | {name: str(count) for name, count in counts.items()}
        | {name: f"{loss:.3f}" for name, loss in losses.items()}
    )


def _attention(demo: Demo) -> dict[str, str]:
    owner, other, induction = attention_to_names(demo, make_prompts(demo, "attention", n=200))
    layer, head, _ = strongest(owner - other)[0]
    return {
        "copy_layer": str(layer),
        "copy_head": str(head),
        "copy_share": f"{owner[layer, head]:.2f}",
        "other_share": f"{other[layer, head]:.2f}",
        "owner_table": _table(owner),
        "induction_table": _table(induction),
    }


def _ablation(folder: Path, layer: int, head: int) -> dict[str, str]:
    model = lp.load(folder)
    stories = held_out_stories(model)
    without = ablation_table(model, stories)
    return {
        "n_ablated": str(N_STORIES),
        "with_all": f"{100 * copied_share(model, stories, None):.0f} %",
        "without_copy_head": f"{100 * without[layer, head]:.0f} %",
        "ablation_table": _table(100 * without, "{:.0f} %"),
    }


def _table(shares: np.ndarray, number: str = "{:.2f}") -> str:
    """[n_layers, n_heads] as Markdown."""
    heads = range(shares.shape[1])
    lines = [
        "| | " + " | ".join(f"head {h}" for h in heads) + " |",
        "|---" * (len(heads) + 1) + "|",
    ]
    lines += [
        f"| layer {i} | " + " | ".join(map(number.format, row)) + " |"
        for i, row in enumerate(shares)
    ]
    return "\n".join(lines)


def _examples(demo: Demo) -> dict[str, str]:
    continuation = demo.generate(demo.encode(PROMPT, bos=True), 60)
    chat = render([{"role": "user", "content": QUESTION}], DATE, add_generation_prompt=True)
    answer = demo.generate(demo.encode(chat), 250)
    decode = demo.tokenizer.decode
    return {
        "prompt": PROMPT,
        "continuation": decode(continuation).strip(),
        "question": QUESTION,
        "answer": decode(answer).strip(),
    }
