"""stories260K, a real trained Llama of 260,000 parameters, as a Hugging Face folder.

The source is one file in the first format of llama2.c: seven int32 (d_model, d_ff, n_layers,
n_heads, n_kv_heads, vocab_size, longest sequence; a vocab_size above 0 means a tied head), then
float32: embedding, then for all layers in a row each of input norm, q, k, v, o, post-attention
norm, gate, down, up; final norm; two tables of RoPE, which are not needed. Its q and k keep the two
components that RoPE turns together side by side; Hugging Face has the second half a head later.

Two traps. There are copies whose matrices were transposed in place once for every layer there is,
five times each; both kinds are read, and whether the model continues its story shows which it is.
And only token ids can be used: a tok512.model that lies beside it may hold other merges than those
of the training.
"""

import struct
from pathlib import Path

import models
import numpy as np

from llamaprobe.config import read_config
from llamaprobe.reference import forward

# Greedy from token 1: "Once upon a time, there was a little girl named Lily. She loved to play
# outside in the park. One day, she saw a big, red"
STORY = [
    *(1, 403, 407, 261, 378, 432, 383, 286, 261, 376, 298, 315, 421, 395, 317, 426, 338, 401, 396),
    *(267, 337, 410, 408, 419, 292, 411, 322, 265, 282, 295, 433, 426, 385, 328, 432, 358, 394),
    *(261, 370, 432, 352),
]


def make_folder(source: Path, folder: Path) -> Path:
    """Reads stories260K.bin in `source`, writes config.json and model.safetensors (float32)."""
    data = (source / "stories260K.bin").read_bytes()
    config = _config(*struct.unpack("<7i", data[:28]))
    weights, end = _weights(config, np.frombuffer(data[28:], "<f4"))
    n_rope = config["max_position_embeddings"] * _head_dim(config)
    if end + n_rope != (len(data) - 28) // 4:
        raise ValueError(f"{source}: {len(data)} bytes do not fit the sizes in its head")
    for n_transposed in (0, config["num_hidden_layers"]):
        tensors = {name: _undo(name, m, n_transposed, config) for name, m in weights.items()}
        models.write_checkpoint(folder, config, tensors, dtype="F32")
        if _continues(folder, tensors):
            return folder
    raise ValueError(f"{source}: stories260K.bin does not continue its story")


def _continues(folder: Path, weights: dict[str, np.ndarray]) -> bool:
    """Whether the model finds each next token of the story the most likely."""
    logits = forward(read_config(folder), weights, STORY[:-1])["logits"]
    return logits.argmax(axis=1).tolist() == STORY[1:]


def _config(
    d_model: int, d_ff: int, n_layers: int, n_heads: int, n_kv_heads: int, vocab: int, longest: int
) -> dict:
    return models.make_config(
        hidden_size=d_model,
        intermediate_size=d_ff,
        num_hidden_layers=n_layers,
        num_attention_heads=n_heads,
        num_key_value_heads=n_kv_heads,
        head_dim=...,
        vocab_size=vocab,
        max_position_embeddings=longest,
        tie_word_embeddings=True,
    )


def _head_dim(config: dict) -> int:
    return config["hidden_size"] // config["num_attention_heads"]


def _weights(config: dict, values: np.ndarray) -> tuple[dict[str, np.ndarray], int]:
    """Tensors as the file has them, by Hugging Face name, and how many values they took."""
    shapes = models.weight_shapes(config)
    order = ["input_layernorm", *(f"self_attn.{m}_proj" for m in "qkvo")]
    order += ["post_attention_layernorm", *(f"mlp.{m}_proj" for m in ("gate", "down", "up"))]
    layers = range(config["num_hidden_layers"])
    names = ["model.embed_tokens.weight"]
    names += [f"model.layers.{i}.{module}.weight" for module in order for i in layers]
    names.append("model.norm.weight")
    weights, at = {}, 0
    for name in names:
        n = int(np.prod(shapes[name]))
        weights[name] = values[at : at + n].reshape(shapes[name])
        at += n
    return {name: weights[name] for name in shapes}, at


def _undo(name: str, values: np.ndarray, n_transposed: int, config: dict) -> np.ndarray:
    """A tensor of the file in Hugging Face's order."""
    if not name.endswith("_proj.weight"):
        return values
    shape = values.shape
    for _ in range(n_transposed):
        values = values.T.reshape(shape)
    if name.endswith(("q_proj.weight", "k_proj.weight")):
        pairs = values.reshape(-1, _head_dim(config) // 2, 2, shape[1])
        values = pairs.swapaxes(1, 2).reshape(shape)
    return np.ascontiguousarray(values)
