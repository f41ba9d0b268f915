"""Writes docs/points.md from the list of capture points. Run it after a change to csrc/model/points.h or
llamaprobe/points.py: python tools/make_points_doc.py"""

from pathlib import Path

from llamaprobe.points import Point, all_points

DOC = Path(__file__).parent.parent / "docs" / "points.md"

HEAD = """\
# Capture points

Every value of the forward pass that has a name. Made by `tools/make_points_doc.py` from
`csrc/model/points.h` and `llamaprobe/points.py`.

```python
run = model.run("Once upon a time", points=("x_norm", "pattern"))
run["x_norm"]       # all layers: float32 [n_layers, T, d_model]
run["pattern", 3]   # layer 3: float32 [n_heads, T, T]
```

T is the number of tokens; there is no batch axis and no padding. Tokens come first, then heads; a
point of a layer asked for by name alone has a leading axis of layers. A linear layer is `x @ W.T`,
as the files hold W as [out, in], plus its bias where the config has one.

"""

TAIL = """
## Names of other tools

A name from the last column works wherever a name is requested: with a number in place of L for one
layer (`blocks.3.hook_resid_pre`, `model.layers.3.mlp`), or without its beginning for all of them
(`hook_resid_pre`, `resid_pre`, `mlp.gate_proj`). TransformerLens' shorthand is understood: `k6`,
`scale4ln1`, `("resid_pre", 5)`, `("normalized", 27, "ln2")`. `embed`, `hook_embed` and
`model.embed_tokens` are `x` of layer 0. Whatever name is used, the shape is the one in the table:
`self_attn.q_proj` gives [T, n_heads, head_dim], not one flat row per token.

The path of any module of a Hugging Face Llama means its output, also written `.output` or
`.output[0]`; with `.input` (or `.inputs[0][0]`) it means what the module takes. That holds for the
decoder layer and for `input_layernorm`, `self_attn`, `q_proj`, `k_proj`, `v_proj`, `o_proj`,
`post_attention_layernorm`, `mlp`, `gate_proj`, `up_proj`, `act_fn` and `down_proj` in it, for
`model.norm` (its input is `x_out` of the last layer), `lm_head` and the output of
`model.embed_tokens`. nnsight's spelling with a second `model.` and `layers[3]` is the same name.

## Many names, many layers

```python
model.run(text, points="all")                       # every point
model.run(text, points=["x*", "logits"])            # x, x_rms, x_unit, ..., x_out, and logits
model.run(text, points="blocks.*.hook_resid_pre")   # a pattern over names elsewhere
model.run(text, points=[("z", -1)], layers=None)    # one layer of one point; -1 is the last
model.run(text, layers=3)                           # one layer; [3, 1], range(2), slice(-4, None)
```

`*` and `?` match any text and any one character, of our names or, where none of ours matches, of
the names elsewhere. Negative layers count from the last layer of the opened model, in `layers=`, in
names and in `run["x", -1]`. `layers=` keeps the order in which it is given.

## Where tools differ

- `hidden_states` of transformers has n_layers + 1 entries: number i is `x` of layer i, but the last
  is `final_norm`, not `x_out` of the last layer. The residual stream before the final norm is not
  in that tuple; norming its last entry again is the classic error of a logit lens. llamaprobe takes
  no such name.
- `x_unit` is before the gain and `x_norm` after it. TransformerLens' `ln1.hook_normalized` is
  `x_unit`; its `hook_scale` is `x_rms`, which includes rms_norm_eps.
- TransformerLens' `mlp.hook_pre` is `gate` and `mlp.hook_post` is `hidden`, which is `act * up`; it
  has no name for `act`. `neuron_activations` of the LLM Transparency Tool is `gate`.
- `scores` are scaled and masked: a key after the query is -inf, and 0 in `pattern`. transformers'
  eager attention adds the lowest finite float32 instead; after the softmax that is the same.
- With grouped-query attention `k` and `v` have n_kv_heads heads; query head j uses number
  j // (n_heads / n_kv_heads).
- RoPE turns component i of a head together with component i + head_dim / 2, as transformers does.
  llama.cpp keeps such pairs side by side: its q and k are the same numbers in another order.
- TransformerLens' `from_pretrained` centres the logits: they differ from `logits` by a constant per
  token; `from_pretrained_no_processing` leaves them alone.
- `q_norm`, `k_norm` and results per head are not offered.
"""


def text() -> str:
    """The whole file."""
    rows = ["| point | shape | value | names elsewhere |", "|---|---|---|---|"]
    return HEAD + "\n".join(rows + [_row(point) for point in all_points()]) + "\n" + TAIL


def _row(point: Point) -> str:
    shape = point.shape if point.per_layer else f"{point.shape}, once"
    names = " ".join(f"`{alias}`" for alias in point.aliases)
    return f"| `{point.name}` | {shape} | {point.formula} | {names} |"


if __name__ == "__main__":
    DOC.write_text(text())
