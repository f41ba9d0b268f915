"""config.json of each family, with what its class has no default for and as little else."""

import json
import warnings
from pathlib import Path
from typing import Any

from llamaprobe.config import Config, read_config

SIZES: dict[str, Any] = {
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 97,
    "max_position_embeddings": 64,
    "position_embedding_type": "rope",
}
NEEDED = {
    "llama": {"rms_norm_eps": 1e-5, "rope_theta": 1e4},
    "exaone4": {"head_dim": 16},
    "granitemoehybrid": {"num_local_experts": 0, "layer_types": ["attention"] * 6},
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
LONGROPE = {
    "rope_type": "longrope",
    "short_factor": [1.0] * 6,
    "long_factor": [2.0] * 6,
}


def read(folder: Path, model_type: str, **keys: Any) -> Config:
    """As a file of that family that has only what a class has no default for, and `keys`."""
    found = SIZES | {"model_type": model_type} | NEEDED.get(model_type, {}) | keys
    found = {key: value for key, value in found.items() if value is not ...}
    (folder / "config.json").write_text(json.dumps(found))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return read_config(folder)
