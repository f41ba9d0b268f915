"""The Python of docs/quantised.md runs, and its comments are the values of their lines."""

import re
from pathlib import Path

import gguf_maker
import numpy as np
import pytest
import quantise
import quantised_checkpoints as made

import llamaprobe as lp

PAGE = Path(__file__).parent.parent / "docs" / "quantised.md"
DEMO = Path(lp.__file__).parent / "demo"
SHOWN = re.compile(r"(\S.*?) {2,}# (<.*?>|\(.*\)|True)")


def write_demos(folder: Path) -> None:
    """The demo as Q4_0, but for its embedding, and as GPTQ."""
    model = lp.load("demo")
    keys = model.config.raw
    weights = {name: np.asarray(weight) for name, weight in model.weights.items()}

    def matrix(name, values):
        kind = "Q8_0" if "embed" in name else "Q4_0"
        return gguf_maker.Stored(
            kind, values.shape, quantise.blocks(kind.lower(), values).tobytes()
        )

    tensors = gguf_maker.model_tensors("llama", weights, keys["head_dim"], matrix)
    factors = np.ones(keys["head_dim"] // 2, np.float32)
    tensors["rope_freqs.weight"] = gguf_maker.stored(factors, "F32")
    metadata = gguf_maker.model_metadata("llama", keys)
    gguf_maker.write_gguf(folder / "demo-Q4_0.gguf", metadata, tensors)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((DEMO / name).read_bytes())
    made.FORMATS["gptq4-v1"].make(folder / "demo-GPTQ", made.config_of())


def test_the_blocks_run(tmp_path, monkeypatch):
    pytest.importorskip("gguf")
    pytest.importorskip("safetensors")
    write_demos(tmp_path)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    shown = 0
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL):
        exec(compile(block, str(PAGE), "exec"), names)
        for line in block.splitlines():
            if match := SHOWN.fullmatch(line):
                assert repr(eval(match[1], names)) == match[2]
                shown += 1
    assert shown == 6


def test_the_table_of_kinds_is_that_of_the_code():
    from llamaprobe.checkpoint.layouts import BLOCKS, KINDS

    rows = re.findall(r"^\| `(\w+)`([^|]*)\|(.*)\|$", PAGE.read_text(), re.MULTILINE)
    rows = [
        (kind, [cell.strip() for cell in cells.split("|")])
        for kind, _, cells in rows
        if kind in KINDS
    ]
    assert [kind for kind, _ in rows] == [
        kind for kind in KINDS if kind not in ("f32", "f16", "bf16")
    ]
    for kind, (codes, _, zero, shared, _, offset, roundings) in rows:
        if block := BLOCKS.get(kind):
            n_bits = sum(plane.width for plane in block.planes)
            assert codes == ("int8" if n_bits == 8 else f"0 to {(1 << n_bits) - 1}")
            assert zero == (str(block.zero) if block.zero else "") and shared.split()[0] == str(
                block.group
            )
            assert roundings == ("1" if offset else "0")
