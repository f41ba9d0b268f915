"""Finding special tokens: as a regular expression of them all finds them, in linear time."""

import random
import re
import time

from hypothesis import given
from hypothesis import strategies as st

from llamaprobe.prompts.special_tokens import SpecialTokens

LETTERS = "ab-]^\\[ <|>\0é😀"
WORDS = st.lists(st.text(LETTERS, min_size=1, max_size=12), max_size=12)


def pattern(tokens: list[str]) -> re.Pattern[str]:
    """The same as a regular expression."""
    return re.compile("|".join(map(re.escape, sorted(tokens, key=len, reverse=True))) or "(?!)")


@given(WORDS, st.lists(st.text(LETTERS, max_size=9), max_size=9), st.randoms())
def test_as_a_regular_expression(tokens, others, rng):
    parts = [*tokens, *tokens, *others, *(token[:-1] for token in tokens)]
    rng.shuffle(parts)
    text = "".join(parts)
    found, expected = SpecialTokens(tokens), pattern(tokens)
    assert list(found.find(text)) == [(m.start(), m.end(), m[0]) for m in expected.finditer(text)]
    assert found.findall(text) == expected.findall(text)


def test_tokens_that_are_prefixes_of_others():
    found = SpecialTokens(["a" * n for n in range(1, 60)] + ["a" * n + "!" for n in range(9, 90)])
    assert found.findall("a" * 200) == ["a" * 59] * 3 + ["a" * 23]
    assert found.findall("a" * 70 + "!" + "a" * 5 + "!") == ["a" * 70 + "!", "a" * 5]
    assert found.findall("a" * 99 + "b") == ["a" * 59, "a" * 40]


def test_no_tokens():
    assert SpecialTokens([]).findall("abc") == [] and SpecialTokens([""]).findall("abc") == []


def test_time_is_linear():
    """150,000 tokens, and tokens of up to 4,000 characters that only differ in where they end: a
    regular expression of them takes minutes."""
    rng = random.Random(1)
    many = [f"<{rng.getrandbits(40):x}>" for _ in range(150_000)]
    long = ["a" * n + "b" for n in range(1, 4000)]
    start = time.process_time()
    assert SpecialTokens(many).findall(f"<a>{many[7]} <<" * 1000) == [many[7]] * 1000
    assert SpecialTokens(long).findall("a" * 300_000 + "b") == ["a" * 3999 + "b"]
    assert time.process_time() - start < 30
