"""Trains the demo's tokenizer and writes tokenizer.json and tokenizer_config.json.

Byte-level BPE, cut as in Llama 3: ids 0 .. 255 are the bytes (in GPT-2's spelling, sorted), then one id per
merge, then the special tokens. Any UTF-8 text comes back as it went in.
"""

import json
import random
from collections.abc import Iterator
from pathlib import Path

from chats import BOS, EOS, EOT, SPECIAL_TOKENS, TEMPLATE, make_chat
from stories import make_story
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    pre_tokenizers,
    processors,
    trainers,
)

VOCAB_SIZE = 960
_N_STORIES = 6000
# Llama 3: contractions; a word with what stands before it; up to three digits; marks; ends of lines; spaces.
_CUT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def train_tokenizer(folder: Path, seed: int) -> None:
    """Write the two files into `folder`, the same bytes for the same seed."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_CUT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE - len(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(random.Random(f"{seed} tokenizer")), trainer)
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS]
    )
    bos = tokenizer.token_to_id(BOS)
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(
                single=f"{BOS} $A", pair=f"{BOS} $A {BOS}:1 $B:1", special_tokens=[(BOS, bos)]
            ),
        ]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "bos_token": BOS,
        "eos_token": EOT,
        "pad_token": EOS,
        "chat_template": TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": 2048,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


def _texts(rng: random.Random) -> Iterator[str]:
    """Stories without wild names, and chats cut at their special tokens."""
    for _ in range(_N_STORIES):
        yield make_story(rng, wild=0.0).text
    for _ in range(_N_STORIES // 3):
        text = make_chat(rng)
        for token in SPECIAL_TOKENS:
            text = text.replace(token, "\0")
        yield from text.split("\0")
