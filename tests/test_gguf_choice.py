"""Which file of a folder or a repository is the model in GGUF."""

import pytest

import llamaprobe as lp
from llamaprobe.gguf.choice import choose, parts_of

PARTS = [f"m-Q8_0-{i:05d}-of-00003.gguf" for i in (1, 2, 3)]
NAMES = ["m-Q4_K_M.gguf", "m-Q6_K.gguf", *PARTS, "mmproj-m.gguf", "sub/m-F16.gguf", "config.json"]


def test_parts_of_a_split() -> None:
    assert parts_of(PARTS[1]) == PARTS
    assert parts_of("sub/" + PARTS[2]) == ["sub/" + part for part in PARTS]
    for name in ("m.gguf", "m-00004-of-00003.gguf", "m-00000-of-00003.gguf", "m-1-of-2.gguf"):
        assert parts_of(name) == [name]
    assert parts_of("m-00001-of-99999.gguf") == ["m-00001-of-99999.gguf"]


@pytest.mark.parametrize(
    ("file", "found"),
    [
        ("*Q4_K_M*", "m-Q4_K_M.gguf"),
        ("m-Q6_K.gguf", "m-Q6_K.gguf"),
        ("*Q8_0*", PARTS[0]),
        (PARTS[1], PARTS[0]),
        ("*-00002-of-*", PARTS[0]),
        ("sub/*", "sub/m-F16.gguf"),
        ("m-F16.gguf", "sub/m-F16.gguf"),
        ("mmproj*", "mmproj-m.gguf"),
    ],
)
def test_a_name_or_a_glob(file: str, found: str) -> None:
    assert choose(NAMES, file, "repo") == found


def test_a_name_is_not_a_glob() -> None:
    assert choose(["a[1].gguf", "a1.gguf"], "a[1].gguf", "here") == "a[1].gguf"
    assert choose(["a[1].gguf", "a1.gguf"], "a[0-9].gguf", "here") == "a1.gguf"


def test_the_only_one() -> None:
    assert choose(["config.json", "m.gguf", "mmproj-m.gguf"], None, "here") == "m.gguf"
    assert choose(PARTS, None, "here") == PARTS[0]
    assert choose(PARTS[1:], None, "here") == PARTS[0]  # opening it says which is missing
    assert choose(["config.json", "mmproj-m.gguf"], None, "here") is None


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (None, "here: holds 3 models in GGUF: m-Q4_K_M.gguf, m-Q6_K.gguf, m-Q8_0-00001-of-00003"),
        (
            "*Q*K*",
            "file '[*]Q[*]K[*]' matches 2 of the models in GGUF: m-Q4_K_M.gguf, m-Q6_K.gguf;",
        ),
        ("*Q5*", "matches none of the models in GGUF: m-Q4_K_M.gguf, .*, sub/m-F16.gguf; choose"),
    ],
)
def test_candidates_are_named(file: str | None, message: str) -> None:
    with pytest.raises(lp.ArgumentError, match=message):
        choose(NAMES, file, "here")


def test_a_glob_that_a_model_matches_leaves_out_its_images() -> None:
    assert choose(["m.gguf", "mmproj-m.gguf"], "*m.gguf", "here") == "m.gguf"
    assert choose(["m.gguf", "mmproj-m.gguf"], "mm*", "here") == "mmproj-m.gguf"


def test_there_is_none() -> None:
    with pytest.raises(lp.ArgumentError, match="matches none of the models in GGUF: there are none"):
        choose(["config.json"], "*Q4*", "here")
