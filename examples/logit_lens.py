"""What the model would say after each layer: the last norm and the head applied to `x` of every layer.

    python examples/logit_lens.py [MODEL] [PROMPT]

The residual stream after the last layer, `x_out`, gives the model's own answer; that is checked. The idea is
nostalgebraist's logit lens (2020). This is the formula by hand; `model.lens(run)` does it with the bits of a run.
"""

import sys

import numpy as np

import llamaprobe as lp

DEMO = "Once upon a time there was a miller named Hopoa who lived behind the hills. So the heavy bell came back to"


def main(source: str = "demo", prompt: str = DEMO) -> None:
    model = lp.load(source)
    config, weights = model.config, model.weights
    gain = np.asarray(weights["model.norm.weight"])
    name = "lm_head.weight" if "lm_head.weight" in weights else "model.embed_tokens.weight"
    head = np.asarray(weights[name])  # [vocab_size, d_model]

    run = model.run(prompt, points=("x", "x_out", "logits"))
    streams = [*run["x"][:, -1], run["x_out"][-1, -1]]  # of the last token: [d_model] each
    for layer, x in enumerate(streams):
        logits = gain * x / np.sqrt(np.mean(x * x) + config.rms_norm_eps) @ head.T
        best = np.argsort(-logits)[:5]
        words = " | ".join(model.tokenizer.pieces(best)) if run.tokens else str(best.tolist())
        print(f"{f'layer {layer}' if layer < len(run['x']) else 'answer ':<9} {words}")
    assert best[0] == run["logits"][-1].argmax()


if __name__ == "__main__":
    main(*sys.argv[1:])
