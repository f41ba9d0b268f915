"""The order of a command line: options may stand anywhere among the positional arguments."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamaprobe.cli import main as cli

# Of each command: its positionals, and options with their values.
COMMANDS = {
    "run": (
        ["demo", "Who are you?"],
        [["--chat"], ["--out", "o"], ["--points", "x,q"], ["--points=z"], ["--layers", "0,2-3"]]
        + [["--digits", "5"], ["--format=csv"], ["--threads", "1"], ["--date", "today"], ["--json"]]
        + [["--force"], ["--quiet"], ["--progress"], ["--no-masks"], ["--hash-weights"]],
    ),
    "points": (["demo"], [["--revision", "v1"], ["--json"]]),
    "inspect": (["demo"], [["--revision", "v1"], ["--json"]]),
    "weights": (
        ["demo"],
        [["--out", "o"], ["--filter", "*norm*"], ["--filter", "re:q"], ["--exclude=*bias"]]
        + [["--list"], ["--dtype", "raw"], ["--format", "q8.8"], ["--threads", "2"]],
    ),
    "verify": (["folder"], [["--model", "demo"], ["--threads", "2"], ["--quiet"]]),
    "bench": (["demo"], [["--tokens", "8,16"], ["--repeat", "2"], ["--json"]]),
    "download": (
        ["a/b", "c/d", "e/f"],
        [["--layers", "0"], ["--include", "*.json"], ["--from", "list"], ["--head"], ["--dry-run"]],
    ),
}
TEXTS = ["-5 degrees", "-1", "-0.5", "-", "--", "", "--chat", "-h", "a -b", "--out=x", "é", "-x"]


def parsed(words: list[str]) -> dict[str, object]:
    return {k: v for k, v in vars(cli._parser().parse_args(words)).items() if k != "usage_error"}


@pytest.mark.slow
@given(st.data())
@settings(max_examples=150, deadline=None)
def test_every_order_means_the_same(data: st.DataObject):
    name = data.draw(st.sampled_from(sorted(COMMANDS)))
    positionals, options = COMMANDS[name]
    chosen = data.draw(st.lists(st.sampled_from(options), unique_by=tuple))
    n_given = data.draw(st.integers(1, len(positionals))) if name == "download" else len(positionals)
    expected = parsed([name, *positionals[:n_given], *sum(chosen, [])])
    places = data.draw(st.lists(st.integers(0, len(chosen)), min_size=n_given, max_size=n_given))
    words: list[str] = []
    given_places = sorted(places)
    for number in range(len(chosen) + 1):
        words += [p for p, at in zip(positionals, given_places, strict=False) if at == number]
        words += chosen[number] if number < len(chosen) else []
    assert parsed([name, *words]) == expected, words


@given(st.sampled_from(TEXTS), st.randoms())
@settings(max_examples=60, deadline=None)
def test_after_two_dashes_everything_is_a_prompt(text: str, rng: random.Random):
    before = [["--chat"], ["--out", "o"], ["demo"]]
    rng.shuffle(before)
    args = cli._parser().parse_args(["run", *sum(before, []), "--", text])
    assert (args.model, args.prompt, args.chat, args.out) == ("demo", text, True, "o")
    assert type(args.prompt) is str
    args = cli._parser().parse_args(["run", "--out", "o", "--", "demo", text])
    assert (args.model, args.prompt, args.chat, args.out) == ("demo", text, False, "o")


@pytest.mark.parametrize("text", ["-5 degrees", "-1", "-0.5", "-", "", "--no such option", "- a"])
@pytest.mark.parametrize("at", range(4))
def test_a_prompt_that_begins_with_a_dash(text: str, at: int):
    words = ["demo", "--out", "o"]
    words.insert(min(at, 3) if at != 2 else 3, text)
    if at == 0:
        words = ["--chat", "demo", text, "--out", "o"]
    args = cli._parser().parse_args(["run", *words])
    assert args.prompt == text and args.model == "demo" and args.out == "o"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["demo", "--chatt", "hi"], "unrecognized arguments: --chatt"),
        (["demo", "hi", "there", "--chat"], "unrecognized arguments: there"),
        (["--chat"], "the following arguments are required: MODEL"),
        (["demo", "hi", "--out"], "argument --out: expected one argument"),
        (["demo", "--out", "--chat", "hi"], "argument --out: expected one argument"),
        (["demo", "--out", "--", "hi"], "argument --out: expected one argument"),
        (["demo", "hi", "--format", "xls"], "argument --format: format 'xls' is not one of csv, txt"),
        (["demo", "hi", "--chat=yes"], "argument --chat: ignored explicit argument 'yes'"),
        (["demo", "hi", "--thr", "x"], "argument --threads: 'x' is not a number from 1 to 999999"),
        (["demo", "hi", "--l\nx"], r"unrecognized arguments: --l x"),
        (["demo", "hi", "hf_" + "x" * 34], "unrecognized arguments: ***"),
        (["demo", "hi", "\x1b[31m"], r"unrecognized arguments: \x1b[31m"),
    ],
)
def test_wrong_usage_is_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit) as end:
        cli.main(["run", *words])
    out, err = capsys.readouterr()
    assert end.value.code == 2 and out == "" and err.count("\n") == 1
    assert err.startswith(f"llamaprobe run: error: {message}")
    assert err.endswith("; see llamaprobe run --help\n")


def test_a_download_of_nothing_is_wrong_usage(command):
    code, out, errors = command("download")
    assert (code, out) == (2, "")
    assert errors.startswith("llamaprobe download: error: give REPO, or --from FILE; see")


def test_bytes_that_are_not_text_are_named(command):
    """As sys.argv has them where the locale, or the text, is not UTF-8."""
    code, _, errors = command("run", "demo", "h\udcc3\udca9")
    assert code == 1 and "U+DCC3, at character 1, for the byte 0xC3, which was not" in errors
    assert "byte" not in command("run", "demo", "h\ud800")[2]


@pytest.mark.parametrize(
    ("words", "near"),
    [(["rum", "demo"], "run"), (["wieghts", "demo"], "weights"), (["benchmark"], "bench")],
)
def test_a_mistyped_command_has_a_near_one(command, words: list[str], near: str):
    code, out, errors = command(*words)
    assert (code, out) == (2, "")
    assert f"argument COMMAND: there is no {words[0]!r}; did you mean {near}?; see" in errors
    assert "invalid choice" in command("xyz")[2]


def test_the_three_orders_of_a_first_try(command, tmp_path):
    plain = command("run", "demo", "Once", "--points", "x")
    assert plain[0] == 0 and command("run", "demo", "--points", "x", "Once") == plain
    assert command("run", "--points", "x", "demo", "Once") == plain
    assert command("run", "demo", "--chat", "Who are you?")[0] == 0
    assert command("run", "demo", "--out", tmp_path / "o", "Once")[0] == 0
    assert (tmp_path / "o" / "manifest.json").exists()
