"""A Llama folder as a float32 GGUF file without a vocabulary, so that llama.cpp can run what llamaprobe runs.

llama.cpp turns neighbours (2 i, 2 i + 1) where Hugging Face turns (i, i + head_dim / 2): the rows of q and k are
reordered so that both compute the same. What its scaled RoPE divides by is taken from the inv_freq that llamaprobe uses.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

import llamaprobe as lp

_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def write_gguf(model: lp.Model, path: Path) -> None:
    """Write the model; of one tensor at a time there is a copy in memory. Biases are refused."""
    import gguf

    c = model.config
    if c.attention_bias or c.mlp_bias:
        raise SystemExit("llama.cpp is compared on models without biases only")
    part = path.with_name(path.name + ".part")
    writer = gguf.GGUFWriter(part, "llama")
    writer.add_vocab_size(c.vocab_size)
    writer.add_tokenizer_model("no_vocab")
    writer.add_context_length(c.max_positions)
    writer.add_embedding_length(c.d_model)
    writer.add_block_count(c.n_layers)
    writer.add_feed_forward_length(c.d_ff)
    writer.add_head_count(c.n_heads)
    writer.add_head_count_kv(c.n_kv_heads)
    writer.add_key_length(c.head_dim)
    writer.add_value_length(c.head_dim)
    writer.add_rope_dimension_count(c.head_dim)
    writer.add_rope_freq_base(c.rope_theta)
    writer.add_layer_norm_rms_eps(c.rms_norm_eps)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    names = dict(_tensor_names(model))
    for name, source in names.items():
        shape = model.weights[source].shape if source else (c.head_dim // 2,)
        n_bytes = int(np.prod(shape)) * 4
        writer.add_tensor_info(name, shape, np.dtype(np.float32), n_bytes)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for name, source in names.items():
        writer.write_tensor_data(_values(model, name, source))
    writer.close()
    part.rename(path)


def _tensor_names(model: lp.Model) -> Iterator[tuple[str, str | None]]:
    """(name in the file, name in the model); None for the divisors of RoPE."""
    yield "token_embd.weight", "model.embed_tokens.weight"
    yield "output_norm.weight", "model.norm.weight"
    if model.config.rope_scaling:
        yield "rope_freqs.weight", None
    if not model.config.tied_head:
        yield "output.weight", "lm_head.weight"
    for layer in range(model.config.n_layers):
        for theirs, ours in _NAMES.items():
            yield f"blk.{layer}.{ours}.weight", f"model.layers.{layer}.{theirs}.weight"


def _values(model: lp.Model, name: str, source: str | None) -> np.ndarray:
    c = model.config
    if source is None:
        plain = c.rope_theta ** (-np.arange(0, c.head_dim, 2) / c.head_dim)
        return (plain / c.inv_freq).astype(np.float32)
    values = np.asarray(model.weights[source])
    if "attn_q." in name or "attn_k." in name:
        halves = values.reshape(-1, 2, c.head_dim // 2, c.d_model)  # [heads, half, pair, d_model]
        values = np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(values.shape)
    return values
