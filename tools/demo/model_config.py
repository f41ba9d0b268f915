"""The shape of the demo: Llama 3.2 in miniature, and what generation needs to know about its special tokens."""

import json
from pathlib import Path

from chats import BOS, EOS, EOT
from tokenizers import Tokenizer

_SHAPE = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "head_dim": 32,
    "hidden_act": "silu",
    "hidden_size": 128,
    "initializer_range": 0.05,
    "intermediate_size": 352,
    "max_position_embeddings": 2048,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": 4,
    "num_hidden_layers": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-05,
    # The wavelengths 6 .. 63 stay, 112 and 199 are blended, 353 and longer are slowed down: all three bands.
    "rope_scaling": {
        "factor": 8.0,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 256,
        "rope_type": "llama3",
    },
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "use_cache": True,
}


def write_config(folder: Path) -> None:
    """config.json and generation_config.json, for the tokenizer that is in `folder`."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    bos, eos, eot = (tokenizer.token_to_id(token) for token in (BOS, EOS, EOT))
    ids = {"bos_token_id": bos, "eos_token_id": [eos, eot]}
    _write(folder / "config.json", {**_SHAPE, **ids, "vocab_size": tokenizer.get_vocab_size()})
    _write(folder / "generation_config.json", {**ids, "do_sample": False, "pad_token_id": eos})


def _write(path: Path, values: dict[str, object]) -> None:
    path.write_text(json.dumps(dict(sorted(values.items())), indent=2) + "\n")
