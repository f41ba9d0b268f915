"""lp.diff and llamaprobe diff: the first value that differs, and how much each does."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import llamaprobe as lp

TEXT = "Once upon a time there was a miller named Hopoa."
POINTS = ("logits", "z", "x", "pattern", "x_rms")


@pytest.fixture(scope="module")
def demo() -> lp.Model:
    return lp.load("demo")


@pytest.fixture(scope="module")
def plain(demo: lp.Model) -> lp.Run:
    return demo.run(TEXT, points=POINTS)


@pytest.fixture(scope="module")
def edited(demo: lp.Model) -> lp.Run:
    e = lp.Edits()
    e["z", 2][5, 1] = 0
    return demo.run(TEXT, points=POINTS, edits=e)


@pytest.fixture
def folders(plain: lp.Run, edited: lp.Run, tmp_path: Path) -> tuple[Path, Path]:
    plain.save(tmp_path / "plain")
    edited.save(tmp_path / "edited", format="npy")
    return tmp_path / "plain", tmp_path / "edited"


def test_the_first_value_in_computing_order(plain: lp.Run, edited: lp.Run):
    d = lp.diff(plain, edited)
    assert d and d.first is not None
    assert (d.first.point, d.first.layer, d.first.index) == ("z", 2, (5, 1, 0))
    assert (d.first.a, d.first.b) == (plain["z", 2][5, 1, 0], 0)
    places = [(one.point, one.layer) for one in d.values]
    assert places[:4] == [("x", 0), ("x_rms", 0), ("pattern", 0), ("z", 0)]
    assert places[-1] == ("logits", None) and len(places) == 17


def test_each_value_is_as_numpy_counts(plain: lp.Run, edited: lp.Run):
    for one in lp.diff(plain, edited).values:
        a, b = (
            (r[one.point] if one.layer is None else r[one.point, one.layer]).astype(np.float64)
            for r in (plain, edited)
        )
        different = a != b
        axes = tuple(i for i in range(a.ndim) if i != (one.point == "pattern"))
        assert one.n_values == a.size and one.n_different == different.sum()
        assert one.rows.tolist() == np.flatnonzero(different.any(axis=axes)).tolist()
        assert one.largest == np.abs(a - b).max()
        assert one.relative == pytest.approx(np.linalg.norm(a - b) / np.linalg.norm(a), rel=1e-12)
    largest = lp.diff(plain, edited).largest
    assert largest["z"].shape == (4,) and (largest["z"][:2] == 0).all() and largest["z"][2] > 0


def test_runs_that_are_the_same(plain: lp.Run, demo: lp.Model):
    same = lp.diff(plain, demo.run(TEXT, points=POINTS, threads=2))
    assert not same and same.first is None and not any(one.n_different for one in same.values)
    assert repr(same) == "0 of 17 values differ, 17 same"
    part = lp.diff(plain, demo.run(TEXT, points="x", layers=[1]))
    assert part and part.first is None and len(part.values) == 1 and len(part.only_a) == 16
    assert repr(part).endswith(
        "only in the first: x of layer 0, x_rms of layer 0, pattern of layer 0 and 13 more"
    )


def test_the_table_is_aligned(plain: lp.Run, edited: lp.Run):
    lines = repr(lp.diff(plain, edited)).splitlines()
    assert (
        lines[0].startswith("first: z[2][5, 1, 0]: ")
        and lines[-1] == "6 of 17 values differ, 11 same"
    )
    table = lines[1:-1]
    assert table[0].split() == ["point", "layer", "numbers", "of", "rows", "largest", "relative"]
    assert len({len(line) for line in table}) == 1 and len(table) == 7
    assert table[1].split()[:5] == ["z", "2", "32", "1920", "5"]
    assert "5-14" in table[-1]


def test_before_is_a_value_of_its_own(demo: lp.Model):
    points, e = ("z", "z.before"), lp.Edits()
    e["z", 1][2] += 1
    a, b = demo.run(TEXT, points=points), demo.run(TEXT, points=points, edits=e, layers=[0, 1])
    d = lp.diff(a, b)
    assert [one.point for one in d.values] == ["z.before", "z"] * 2
    assert [one.n_different > 0 for one in d.values] == [False, False, False, True]


def test_tokens_are_compared(demo: lp.Model):
    a, b = (demo.run([1, 2, id, 4], points=("x", "logits")) for id in (3, 5))
    d = lp.diff(a, b)
    assert d.tokens.tolist() == [2] and d.first is not None and d.first.index == (2, 0)
    assert repr(d).startswith("1 token differs, the first at position 2\n")
    with pytest.raises(lp.ArgumentError, match="the runs have 4 tokens and 3 tokens"):
        lp.diff(a, demo.run([1, 2, 3], points="x"))


def test_a_bit_a_nan_and_an_infinity(plain: lp.Run, folders):
    path = folders[0]
    other = lp.read_run(path)
    other["x", 0].view(np.uint32)[3, 7] ^= 1
    (one,) = [one for one in lp.diff(plain, other).values if one.n_different]
    assert (one.point, one.layer, one.n_different, one.rows.tolist()) == ("x", 0, 1, [3])
    other["z", 0][1, 2, 3] = np.nan
    d = lp.diff(plain, other)
    assert [one.largest for one in d.values if one.n_different][1] == np.inf
    assert not lp.diff(other, other)
    zero = lp.read_run(path)
    zero["x", 1][0, 0] = 0.0
    minus = lp.read_run(path)
    minus["x", 1][0, 0] = -0.0
    (one,) = [one for one in lp.diff(zero, minus).values if one.n_different]
    assert one.largest == 0 and one.relative == 0


def test_what_cannot_be_compared(plain: lp.Run, demo: lp.Model, tmp_path: Path):
    with pytest.raises(
        lp.ArgumentError, match="no value in common: points logits, z.*, and points q"
    ):
        lp.diff(plain, demo.run(TEXT, points="q"))
    with pytest.raises(
        lp.ArgumentError, match="a run or the folder of one can be compared, not int"
    ):
        lp.diff(plain, 3)  # type: ignore[arg-type]
    with pytest.raises(lp.FileError, match="no such folder"):
        lp.diff(plain, tmp_path / "none")
    (tmp_path / "file").touch()
    with pytest.raises(lp.NotFolderError, match="file: is not a folder; give the folder"):
        lp.diff(plain, tmp_path / "file")
    other = demo.run(TEXT, points="x")
    other._values["x"] = other._values["x"][0], np.zeros((4, 15, 3), np.float32)
    with pytest.raises(
        lp.ArgumentError, match=r"x of layer 0 is \[15, 128\] in one run and \[15, 3\]"
    ):
        lp.diff(plain, other)


def test_generated_runs_without_values_are_compared_by_their_tokens(demo: lp.Model):
    a, b = demo.generate("Once", 5, stop=()), demo.generate("Once", 5, stop=())
    assert not lp.diff(a, b) and repr(lp.diff(a, b)) == "0 of 0 values differ, 0 same"
    assert lp.diff(a, demo.generate("Once", 5, stop=(), sample=lp.Sample(seed=4)))


def test_saved_runs(command: Callable[..., Any], plain: lp.Run, edited: lp.Run, folders):
    a, b = folders
    d = lp.diff(a, str(b))
    assert repr(d) == repr(lp.diff(plain, edited))
    assert command("diff", a, b) == (1, f"{d!r}\n", "")
    assert command("diff", a, a) == (0, "0 of 17 values differ, 17 same\n", "")
    assert command("diff", a, b, "--quiet") == (1, "", "")
    code, out, _ = command("diff", a, b, "--json")
    facts = json.loads(out)
    assert code == 1 and not facts["same"] and facts["tokens"] == []
    assert facts["first"] == {
        "point": "z",
        "layer": 2,
        "index": [5, 1, 0],
        "a": float(plain["z", 2][5, 1, 0]),
        "b": 0.0,
    }
    assert len(facts["values"]) == 17 and facts["values"][11]["rows"] == [5]
    code, out, err = command("diff", a, a.parent / "none")
    assert code == 2 and out == "" and err.startswith("llamaprobe: ") and "no such folder" in err


def test_the_example_of_the_page_runs(capsys: pytest.CaptureFixture[str]):
    page = (Path(__file__).parent.parent / "docs" / "files.md").read_text()
    (block,) = [
        block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "lp.diff" in block
    ]
    exec(block, names := {})
    d = names["d"]
    assert capsys.readouterr().out == f"{d!r}\n" and d.first.index == (5, 1, 0)
    assert (d.first.point, d.first.layer) == ("z", 2)
