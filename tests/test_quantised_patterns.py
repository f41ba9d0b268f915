"""The patterns of a config: what `re` says of them, in bounded time."""

import re

import numpy as np
import pytest

from llamaprobe.checkpoint.quantised.patterns import Pattern

NAMES = [
    f"model.layers.{layer}.{module}"
    for layer in (0, 3, 18, 27)
    for module in ("self_attn.q_proj", "self_attn.qkv_proj", "mlp.gate_proj", "mlp.gate", "norm_2")
] + ["lm_head", "model.embed_tokens", "", "visual.blocks.1.attn\n.q"]
REAL = [
    ".*lm_head",
    "re:lm_head",
    r".*\.layers\.(\d+|[a-f])\.mlp\.(gate|up|down)_proj$",
    "model[.]layers[.]1?8[.].*",
    "^(?!.*mlp).*",
    "(?=.*self_attn).*_proj",
    r"model\.layers\.(1[0-9]|2[0-7])\..*\.?(?:q|k)_proj",
    ".*mlp.gate$",
    "[^l].*[.a-d_]$",
    "[]m].+",
    "[-m]odel.*?norm_[0-9]{1,2}",
    "(.*)+$",
    ".{5}.layers",
    ".{40,}",
    ".{2,10}$",
    "",
    "a||lm",
    "()lm_head",
    r"\w+\.\w+\.\d+\s?",
]


@pytest.mark.parametrize("text", REAL)
def test_a_pattern_matches_what_re_matches(text: str):
    pattern = Pattern(text)
    for name in NAMES:
        assert pattern.matches(name) == bool(re.match(text, name)), name


def test_random_patterns_match_what_re_matches():
    random = np.random.default_rng(1)

    def drawn(depth: int) -> str:
        kind = random.integers(0, 8 if depth else 3)
        if kind < 3:
            return ["a", "b", "."][kind]
        if kind == 3:
            return (
                f"(?:{drawn(depth - 1)})" + ["*", "+", "?", "{2}", "{1,2}"][random.integers(0, 5)]
            )
        if kind == 4:
            return f"({drawn(depth - 1)}|{drawn(depth - 1)})"
        if kind == 5:
            return f"(?{'=!'[random.integers(0, 2)]}{drawn(depth - 1)})"
        return drawn(depth - 1) + drawn(depth - 1)

    names = ["", *("".join("ab"[bit >> i & 1] for i in range(5)) for bit in range(32))]
    for _ in range(300):
        text = drawn(4) + ["", "$"][random.integers(0, 2)]
        try:
            pattern = Pattern(text)
        except ValueError:  # nested too deeply
            assert text.count("(") > 4
            continue
        for name in names:
            assert pattern.matches(name) == bool(re.match(text, name)), (text, name)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "(",
            ")",
            "a)",
            "(a",
            "[a",
            "[",
            "*",
            "a**",
            "a{2}{3}",
            "+",
            "a{3,",
            "(?P<n>a)",
            "(?<=a)b",
        ),
        *(
            r"(a)\1",
            r"\bmodel",
            r"\A",
            "\\",
            "(?i)a",
            "a{101}",
            "(" * 5 + "a" + ")" * 5,
            "a" * 1001,
        ),
    ],
)
def test_what_is_not_known_is_refused(text: str):
    with pytest.raises(ValueError, match=r"^from character \d+ on$"):
        Pattern(text)


@pytest.mark.parametrize(
    "text",
    ["(.*)*x", "(.*.*)*x", "((((a?){99}){99}){99}){99}x", "(.|.)" * 60 + "x", ".*" * 400 + "x"],
)
def test_patterns_for_which_re_would_take_for_ever(text: str):
    assert not Pattern(text).matches("a" * 200)
