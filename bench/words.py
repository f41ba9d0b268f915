"""The products of a run by the dtype of the weights, beside NumPy's float32 matmul of the same matrices, in one run.

    python bench/words.py [--tokens 1,8,32,128] [--threads 2] [--runs 5] [--layers 2]

Layers of the 1B shape with random weights are written to a temporary folder in bf16, f16 and f32 (2 GB a pair of
layers). Each length is timed alternately: llamaprobe's stages that read weights, for each dtype, and NumPy with the
threads that its BLAS was told (OPENBLAS_NUM_THREADS is set here). One line each: medians of seconds, and how many times
faster than NumPy: the median and the least of the ratios of neighbours in time.
"""

import argparse
import json
import os
import statistics
import struct
import tempfile
import time
from pathlib import Path

D_MODEL, D_MLP, N_HEADS, N_KV_HEADS, HEAD_DIM, VOCAB = 2048, 8192, 32, 8, 64, 256
SHAPES = {
    "self_attn.q_proj": (N_HEADS * HEAD_DIM, D_MODEL),
    "self_attn.k_proj": (N_KV_HEADS * HEAD_DIM, D_MODEL),
    "self_attn.v_proj": (N_KV_HEADS * HEAD_DIM, D_MODEL),
    "self_attn.o_proj": (D_MODEL, N_HEADS * HEAD_DIM),
    "mlp.gate_proj": (D_MLP, D_MODEL),
    "mlp.up_proj": (D_MLP, D_MODEL),
    "mlp.down_proj": (D_MODEL, D_MLP),
}
WORDS = {"bf16": "BF16", "f16": "F16", "f32": "F32"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", default="1,8,32,128")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--layers", type=int, default=2)
    args = parser.parse_args()
    os.environ["OPENBLAS_NUM_THREADS"] = str(args.threads)  # read when NumPy is imported
    with tempfile.TemporaryDirectory(prefix="llamaprobe-bench-") as folder:
        compare(Path(folder), args)


def compare(folder: Path, args: argparse.Namespace) -> None:
    import numpy as np

    import llamaprobe as lp
    from llamaprobe.perf.bench import random_ids
    from llamaprobe.perf.machine import cpu_name, kernels

    models = {}
    for name, dtype in WORDS.items():
        write_model(folder / name, dtype, args.layers)
        models[name] = lp.load(folder / name)
    wide = models["f32"].weights
    matrices = [
        np.array(wide[f"model.layers.{layer}.{name}.weight"])
        for layer in range(args.layers)
        for name in SHAPES
    ]
    rng = np.random.default_rng(0)
    print(f"{cpu_name()}, {next(row.name for row in kernels() if row.in_use)}, {args.threads} threads")
    for n_tokens in map(int, args.tokens.split(",")):
        ids = random_ids(models["f32"], n_tokens)
        inputs = {k: rng.standard_normal((n_tokens, k), np.float32) for k in (D_MODEL, D_MLP)}
        seconds: dict[str, list[float]] = {name: [] for name in (*WORDS, "numpy")}
        for _ in range(1 + args.runs):
            for name, model in models.items():
                profile = model.profile(ids, points=["mlp_out"], threads=args.threads)
                seconds[name].append(sum(stage.seconds for stage in profile.stages if stage.weight_bytes > 1e6))
                time.sleep(0.05)
            start = time.perf_counter()
            for matrix in matrices:
                inputs[matrix.shape[1]] @ matrix.T
            seconds["numpy"].append(time.perf_counter() - start)
            time.sleep(0.3)  # threads of BLAS spin for a while
        report(n_tokens, {name: values[1:] for name, values in seconds.items()})


def report(n_tokens: int, seconds: dict[str, list[float]]) -> None:
    theirs = seconds.pop("numpy")
    print(f"T={n_tokens}: numpy float32 {statistics.median(theirs):.4f} s")
    for name, ours in seconds.items():
        ratios = [them / us for us, them in zip(ours, theirs, strict=True)]
        print(
            f"  {name} {statistics.median(ours):.4f} s: {statistics.median(ratios):.2f} times faster"
            f" (min {min(ratios):.2f})"
        )


def write_model(folder: Path, dtype: str, n_layers: int) -> None:
    import numpy as np

    rng = np.random.default_rng(1)
    folder.mkdir()
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": D_MODEL,
        "intermediate_size": D_MLP,
        "num_hidden_layers": n_layers,
        "num_attention_heads": N_HEADS,
        "num_key_value_heads": N_KV_HEADS,
        "head_dim": HEAD_DIM,
        "vocab_size": VOCAB,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
    }
    (folder / "config.json").write_text(json.dumps(config))
    shapes = {"model.embed_tokens.weight": (VOCAB, D_MODEL), "model.norm.weight": (D_MODEL,)}
    for layer in range(n_layers):
        prefix = f"model.layers.{layer}"
        shapes |= {f"{prefix}.{name}.weight": shape for name, shape in SHAPES.items()}
        shapes |= {f"{prefix}.{name}.weight": (D_MODEL,) for name in ("input_layernorm", "post_attention_layernorm")}
    header, at = {}, 0
    for name, shape in shapes.items():
        n_bytes = int(np.prod(shape)) * (4 if dtype == "F32" else 2)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + n_bytes]}
        at += n_bytes
    text = json.dumps(header).encode()
    with open(folder / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for shape in shapes.values():
            values = rng.standard_normal(shape, np.float32)
            values *= 0.02
            file.write(as_dtype(values, dtype))


def as_dtype(values, dtype: str):
    import numpy as np

    if dtype == "BF16":  # cut off, not rounded: any weight will do
        return (values.view(np.uint32) >> 16).astype(np.uint16)
    return values.astype(np.float16) if dtype == "F16" else values


if __name__ == "__main__":
    main()
