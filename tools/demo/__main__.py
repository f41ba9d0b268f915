"""Makes llamaprobe/demo again, all of it: tokenizer, config, weights, and a model card with what was measured.

    python tools/demo                      # into llamaprobe/demo; a run that was stopped goes on
    python tools/demo --measure            # only measure the weights that are there and write the card

Needs torch, transformers, tokenizers, safetensors and jinja2 (the `truth` extra).
"""

import argparse
from pathlib import Path

import torch
from card import write_card
from model_config import write_config
from tokenizer import train_tokenizer
from train import train

ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python tools/demo", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "llamaprobe" / "demo")
    parser.add_argument("--state", type=Path, default=ROOT / "build" / "demo-state.pt")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--measure", action="store_true", help="train nothing")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    if not args.measure:
        train_tokenizer(args.out, args.seed)
        write_config(args.out)
        args.state.parent.mkdir(parents=True, exist_ok=True)
        train(args.out, args.state, args.seed)
    write_card(args.out)


if __name__ == "__main__":
    main()
