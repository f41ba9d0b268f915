"""Makes tests/data/*.gguf: a tiny random Llama, quantised by llama.cpp itself into its mixtures of K types.

    pip install -e '.[quant]' llama-cpp-python && python tools/record_kquants.py

The tests hold the values and a run to gguf-py and to recorded hashes: tests/test_gguf_llama_cpp.py.
"""

import ctypes
import sys
import tempfile
from pathlib import Path

REPO = Path(__file__).parent.parent
sys.path[:0] = [str(REPO / "tests"), str(REPO / "bench")]

FILE_TYPES = {"Q2_K": 10, "Q3_K_M": 12, "IQ4_XS": 30}  # of llama_ftype in its header


def main() -> None:
    import gguf_file
    import llama_cpp
    import models

    import llamaprobe as lp

    keys = models.k_quant_config()
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "whole.gguf"
        source = models.write_checkpoint(
            Path(folder) / "model", keys, models.make_weights(keys, 1, "F32"), "F32", 1, False
        )
        gguf_file.write_gguf(lp.load(source), whole)
        for name, number in FILE_TYPES.items():
            parameters = llama_cpp.llama_model_quantize_default_params()
            parameters.ftype, parameters.nthread = number, 1
            to = REPO / "tests" / "data" / f"llama_cpp_{name.lower()}.gguf"
            if llama_cpp.llama_model_quantize(
                str(whole).encode(), str(to).encode(), ctypes.byref(parameters)
            ):
                sys.exit(f"llama.cpp could not make {to.name}")
            print(f"{to.name}: {to.stat().st_size} bytes")


if __name__ == "__main__":
    main()
