"""The pre-tokenizers that `tokenizer.ggml.pre` names, for byte-level tokenizers.

A GGUF has no tokenizer.json: the converter recognises the original tokenizer by the ids that it
gives for a test text, and writes a name for how it splits text. This table has, for each name, the
parts from the tokenizer.json of these models. Other names are refused, and so are "default" and a
missing name, for which the converter did not recognise the tokenizer.
"""

from typing import Any, NamedTuple

from ..prompts.trust import CASED, CONTRACTION, CUT, DEEPSEEK_CODER, DEEPSEEK_V3


class PreTokenizer(NamedTuple):
    """The parts of tokenizer.json that a name stands for."""

    cuts: tuple[str, ...] = ()
    """Regular expressions; each splits the pieces of the one before. Empty: GPT-2's."""
    digits: bool = False
    """After `cuts`, split off each digit."""
    nfc: bool = False
    ignore_merges: bool = False
    """A piece that is a token is not merged: Llama 3's merges do not produce all of its tokens."""
    begins: bool = False
    """Whether a text begins with BOS if the file does not say."""

    @property
    def normalizer(self) -> dict[str, Any] | None:
        return {"type": "NFC"} if self.nfc else None

    @property
    def pre_tokenizer(self) -> dict[str, Any]:
        steps: list[dict[str, Any]] = [
            {"type": "Split", "pattern": {"Regex": cut}, "behavior": "Isolated", "invert": False}
            for cut in self.cuts
        ]
        if self.digits:
            steps.append({"type": "Digits", "individual_digits": True})
        steps.append({**BYTE_LEVEL, "use_regex": not self.cuts})
        return {"type": "Sequence", "pretokenizers": steps}


BYTE_LEVEL = {
    "type": "ByteLevel",
    "add_prefix_space": False,
    "trim_offsets": True,
    "use_regex": True,
}

_THREE_DIGITS = (CUT % r"\p{N}{1,3}",)
_LLAMA3 = PreTokenizer(_THREE_DIGITS, ignore_merges=True, begins=True)
_GPT2 = PreTokenizer()
_DIGITS = PreTokenizer(digits=True)
_QWEN2 = PreTokenizer((CUT % r"\p{N}",), nfc=True)
_SHORT = f"{CONTRACTION}?"

PRE_TOKENIZERS = {
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral", "midm-2.0"), _LLAMA3),
    "smaug-bpe": _LLAMA3._replace(begins=False),  # SmolLM3: Llama 3's vocabulary
    "dbrx": PreTokenizer(_THREE_DIGITS),  # cl100k: Phi 4, OLMo 2 and 3, Granite 4
    "gpt-4o": PreTokenizer((CASED % (_SHORT, _SHORT, r"\p{N}{1,3}"),)),  # o200k: Phi 4-mini
    "tekken": PreTokenizer((CASED % ("", "", r"\p{N}"),), ignore_merges=True, begins=True),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen"), _QWEN2),
    **dict.fromkeys(("smollm", "refact", "starcoder"), _DIGITS),  # refact: Granite 3
    **dict.fromkeys(("gpt-2", "phi-2", "exaone4"), _GPT2),
    "deepseek-v3": PreTokenizer(DEEPSEEK_V3),
    "deepseek-coder": PreTokenizer(DEEPSEEK_CODER, digits=True),
}
