"""What notebooks and prompts show: small, escaped, aligned; pages that need no network."""

import contextlib
import dataclasses
import html.parser
import os
import re
import shutil
import subprocess
import zlib
from pathlib import Path

import numpy as np
import pytest

import llamaprobe as lp
from llamaprobe.views import png
from llamaprobe.views.run import Tokens

STORY = "Once upon a time there was a miller named Hopoa who lived behind the hills."
HOSTILE = [
    "<script>document.title='pwned'</script>",
    "<img src=x onerror=\"document.title='pwned'\">",
    "\"' onmouseover='document.title=1",
    "</span></div><h1>out</h1>",
    "&lt;b&gt;",
    "\x1b[31m\r\n\u202egnp.exe\u2066",
    "\ud800" + "\x00",
    "a" * 10_000,
    "$\\frac{1}{2}$",
]
MOST = 50_000
CHROMIUM = next(filter(shutil.which, ("chromium", "chromium-browser", "google-chrome")), None)
chromium = pytest.mark.skipif(CHROMIUM is None, reason="needs a headless Chromium")


@pytest.fixture(scope="module")
def model() -> lp.Model:
    return lp.load("demo")


@pytest.fixture(scope="module")
def run(model: lp.Model) -> lp.Run:
    return model.run(STORY, points="all")


@pytest.fixture
def hostile(model: lp.Model) -> lp.Run:
    """A run whose tokens are what strangers may write."""
    run = model.run(list(range(len(HOSTILE))), points="all")
    run._tokens = Tokens(HOSTILE)
    return run


class Checked(html.parser.HTMLParser):
    """Tags that are closed in order, and the text; nothing that runs or loads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.text, self.attributes = list[str](), "", list[tuple[str, str | None]]()
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in ("style", "div", "span", "b", "code", "table", "tr", "th", "td"), tag
        self.attributes += attrs
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data if "style" not in self.open else ""


def check(text: str) -> Checked:
    """A piece of a notebook as all must be; the parsed one."""
    assert len(text.encode()) < MOST
    found = Checked(text)
    assert {name for name, _ in found.attributes} <= {"class", "style", "title"}
    outside = re.sub(r"[^\S ]", "", text)
    assert "http" not in outside and "url(" not in outside and outside.isprintable()
    fixed = re.findall(r"[;{\"]color:([^;}\"]+)", text)
    assert set(fixed) <= {"inherit"}, "text has the colour of the theme, dark or light"
    return found


# ---- HTML ----


def test_everything_shows_as_small_html(model: lp.Model, run: lp.Run):
    best = model.lens(run).top()[0].id
    shown = {
        "Model demo": model,
        "Run of demo": run,
        "Once": run.tokens,
        "final_unit": model.points(),
        "RoPE|x_norm": lp.Model.points(),
        "Plan of": model.plan(8),
        "output": model.lens(run),
        "positions": model.lens(run, position=None),
        "rounding": model.attribute(run, best, against=3),
    }
    for text, thing in shown.items():
        found = check(thing._repr_html_())
        assert any(part in found.text for part in text.split("|")), text
    for by in ("head", "neuron", "source"):
        assert "others" in check(model.attribute(run, best, by=by)._repr_html_()).text
    assert "%" not in check(model.lens(run, tokens=[3, 5])._repr_html_()).text


def test_hostile_tokens_stay_text(model: lp.Model, hostile: lp.Run):
    lens = model.lens(hostile, position=None)
    found = model.attribute(hostile, 3, by="source")
    for thing in (hostile, hostile.tokens, lens, found):
        text = check(thing._repr_html_()).text
        assert "\x1b" not in text and "\u202e" not in text
        assert all(line.isprintable() for line in repr(thing).splitlines()) or thing is run.tokens
    text = check(hostile._repr_html_()).text
    assert HOSTILE[0] in text and HOSTILE[3] in text and HOSTILE[4] in text
    assert "\\x1b[31m\\x0d\\x0a\\u202egnp.exe\\u2066" in text and "\\ud800\\x00" in text
    assert "a" * 50 in text and "a" * 61 not in text


def test_long_runs_show_their_ends(model: lp.Model):
    run = model.run([1, *range(300), 5, 6], points="x")
    run._tokens = Tokens(f"token{i}." for i in range(303))
    text = check(run._repr_html_()).text
    assert "token149." in text and "token150." not in text and "token152." not in text
    assert "token153." in text and "token302." in text and "3 more" in text
    long = Tokens("<&\"'>" * 20 for _ in range(5000))
    assert re.search(r"4[789]\d\d more", check(long._repr_html_()).text)


def test_a_large_model_is_small_too(random_checkpoint):
    model = lp.load(random_checkpoint(num_hidden_layers=40))
    assert "more steps not shown" in check(model.plan(4)._repr_html_()).text
    run = model.run([1, 2, 3, 4] * 10, points="all")
    check(model.lens(run, position=None)._repr_html_())
    model.close()
    assert "closed" in check(model._repr_html_()).text


# ---- what comes from several runs ----


def edits_of_a_run(model: lp.Model) -> lp.Edits:
    edits = lp.Edits()
    edits["z", 3][-1, 1] = 0
    edits["x", 2][1:3] *= np.float32(1.5)
    edits["gate", 1][:, 3].map(lambda value, at: None)
    return edits


@pytest.fixture(scope="module")
def patches(model: lp.Model) -> lp.Sweep:
    return model.patch_map(STORY, STORY.replace("Ho", "He"), metric=lp.logit_diff(3, 5))


def test_edits_show_what_they_changed(model: lp.Model, run: lp.Run):
    edits = edits_of_a_run(model)
    text = check(edits._repr_html_()).text
    assert "3 edits" in text and "z[3][-1, 1] = 0" in text and "changed" not in text
    ran = model.run(STORY, points="logits", edits=edits).edits
    text = check(ran._repr_html_()).text
    assert (
        f"z[3][{len(run) - 1}, 1] = 0" in text
        and "z[3][-1, 1] = 0" in text
        and "elements changed" in text
    )
    assert f"*= 1.5x[2][1:3] *= 1.5{ran[1].n_changed}" in text and "# " not in text
    assert check(lp.Edits()._repr_html_()).text == "0 edits"
    many = lp.Edits(list(edits) * 300)
    text = check(many._repr_html_()).text
    assert "900 edits, 780 of them not shown" in text and "59z[3]" not in text
    assert text.count("z[3][-1, 1] = 0") == 40


def test_hostile_edits_stay_text(model: lp.Model):
    edits = lp.Edits()
    for text in HOSTILE:
        edits[text, 1][0] = 1.0
        lost = lambda value, at: None  # noqa: E731
        lost.__name__ = text
        edits["x", 1].map(lost)
    shown = check(edits._repr_html_()).text
    assert "<img src=x" in shown and "\\x1b" in shown
    for text in ("&" * 500, HOSTILE[0]):
        many = lp.Edits()
        many[text, 1][0] = 1.0
        many = lp.Edits(list(many) * 500)
        for each in (many, [dataclasses.replace(edit, n_changed=10**9) for edit in many]):
            assert "of them not shown" in check(lp.Edits(each)._repr_html_()).text


def test_a_patch_map_shows_its_cells(model: lp.Model, patches: lp.Sweep):
    text = check(patches._repr_html_()).text
    best = np.abs(patches.values - patches.base).argmax()
    layer, place = np.unravel_index(best, patches.values.shape)
    name = f"layer {layer}, position {place} {patches.tokens[place]!r}"
    assert name in text and f"{patches.values.flat[best]:.6g}" in text
    moves = (patches.values != patches.base).any(axis=0)
    still = np.count_nonzero(patches.values[:, moves] == patches.base)
    assert text.count("·") == still > 0
    assert f"no patch at {np.count_nonzero(~moves)} other positions moves it" in text
    lines = repr(patches).splitlines()
    assert len(lines) == 11 and lines[1].split() == [
        *name.split(),
        f"{patches.values.flat[best]:.6g}",
    ]
    heads = model.patch_map(
        STORY, STORY.replace("Ho", "He"), metric=lp.logprob(3), point="z", heads=True
    )
    assert "head " in check(heads._repr_html_()).text and "head " in repr(heads)


def test_sweeps_of_any_size_and_tokens(model: lp.Model, patches: lp.Sweep):
    hostile = dataclasses.replace(patches, tokens=(HOSTILE * 3)[: len(patches.positions)])
    text = check(hostile._repr_html_()).text
    assert "<scri..." in text and "\\x1b" in text
    assert all(line.isprintable() for line in repr(hostile).splitlines())
    values = np.linspace(-1, 1, 40 * 1000).reshape(40, 1000)
    values[3, 4], values[5, 6] = np.nan, np.inf
    layers, positions = tuple(range(40)), tuple(range(1000))
    large = lp.Sweep(values, 0.0, 0, 1.0, 1.0, layers, positions)
    text = check(large._repr_html_()).text
    assert "nan" in text and "inf" in text and "\u00b7" not in text
    for shape in ((1, 200), (200, 1), (14, 14), (1, 40_000)):
        axes = tuple(map(tuple, map(range, shape)))
        tokens = ["&<>" * 50] * shape[1]
        cells = values.reshape(-1)[: shape[0] * shape[1]].reshape(shape)
        check(lp.Sweep(cells, 0.0, 0, 1.0, 1.0, *axes, tokens)._repr_html_())
    small = lp.Sweep(values[:6, :7], 0.0, 0, 1.0, 1.0, layers[:6], positions[:7])
    assert "nan" in check(small._repr_html_()).text
    plain = model.sweep(STORY, [edits_of_a_run(model)[:1], lp.Edits()], lp.logprob(3))
    assert "cell 0" in check(plain._repr_html_()).text and "cell 1" not in repr(plain)
    assert check(model.sweep(STORY, [], lp.logprob(3))._repr_html_()).text.startswith("Sweep: 0")


def test_a_diff_shows_what_differs(model: lp.Model, run: lp.Run):
    edited = model.run(STORY, points="x* logits z".split(), edits=edits_of_a_run(model))
    found = lp.diff(run, edited)
    text = check(found._repr_html_()).text
    assert f"first: {found.first!r}" in text and "only in the first" in text
    for one in found.values:
        row = f"{one.point}{one.layer}{one.n_different:,}"
        assert (row in text) == bool(one.n_different and one.layer is not None)
    largest = dataclasses.replace(found.values[-1], n_different=10**9, n_values=10**10)
    many = lp.Diff(found.tokens, found.first, [largest] * 500, ["<&>" * 99] * 9, found.only_a * 9)
    assert "380 more values are not shown" in check(many._repr_html_()).text
    same = check(lp.diff(run, run)._repr_html_()).text
    assert same == f"Diff: 0 of {len(found.values) + len(found.only_a)} values differ"


# ---- text and keys ----


def test_a_run_at_a_prompt_says_what_it_holds(model: lp.Model):
    run = model.run("Once upon a time", points=("x", "logits"), layers=[3, 1])
    assert repr(run).splitlines() == [
        "<Run of demo: 5 tokens, layers 3, 1, points x, logits>",
        "  <|begin_of_text|>|Once| upon| a| time",
        "  x       [2, 5, 128]  layers 3, 1   5.1 kB",
        "  logits  [5, 960]     once         19.2 kB",
        '  24.3 kB in all; try run["x", 1]; run.save("folder")',
    ]


def test_a_run_without_a_tokenizer_shows_ids(random_checkpoint):
    run = lp.load(random_checkpoint()).run([5, 1, 96])
    assert "  5|1|96\n" in repr(run) and "5" in check(run._repr_html_()).text


def test_what_is_suggested_works(model: lp.Model, run: lp.Run, tmp_path: Path, monkeypatch):
    for number, points in enumerate(("all", ("x", "x_out"), "final_rms", "z")):
        (tmp_path / str(number)).mkdir()
        monkeypatch.chdir(tmp_path / str(number))
        tried = model.run(STORY, points=points)
        for call in repr(tried).rpartition("try ")[2].split("; "):
            if call.startswith("lp.plot"):
                pytest.importorskip("matplotlib")
            eval(call, {"run": tried, "model": model, "lp": lp})


def test_points_at_a_prompt_are_aligned(model: lp.Model):
    lines = repr(model.points()).splitlines()
    assert len(lines) == len(model.points()) and lines[0].startswith("x  ")
    assert len({line.index("[") for line in lines}) == 1
    assert repr(model.points()[:0]) == "[]" and isinstance(model.points(), list)


def test_keys_complete(model: lp.Model):
    run = model.run(STORY, points=("x", "logits"), layers=[1, 2])
    keys = run._ipython_key_completions_()
    assert keys == ["x", "logits", ("x", 1), ("x", 2)]
    assert all(key in run for key in keys)


def test_a_broken_tokenizer_does_not_break_the_repr(model: lp.Model, monkeypatch):
    run = model.run([3, 4])

    def broken(ids):
        raise lp.TokenizerError("damaged")

    monkeypatch.setattr(run.origin.tokenizer, "pieces", broken)
    assert "  3|4\n" in repr(run) and run._repr_html_()


# ---- PNG ----


def test_an_image_is_a_png_with_the_values():
    values = np.array([[0.0, 0.5], [1.0, np.nan], [2.0, 0.25]])
    data = png.encode(png.levels(values, 1.0))
    assert data.startswith(b"\x89PNG\r\n\x1a\n") and data[16:24] == bytes([0, 0, 0, 2, 0, 0, 0, 3])
    at = data.index(b"IDAT")
    size = int.from_bytes(data[at - 4 : at], "big")
    lines = np.frombuffer(zlib.decompress(data[at + 4 : at + 4 + size]), np.uint8).reshape(3, 3)
    assert lines.tolist() == [[0, 0, 128], [0, 255, 0], [0, 255, 64]]
    assert int.from_bytes(data[at + 4 + size :][:4], "big") == zlib.crc32(data[at : at + 4 + size])


def test_smaller_maps_keep_peaks():
    values = np.zeros((1000, 37))
    values[999, 36] = values[501, 0] = 1
    small = png.smaller(values, 100)
    assert small.shape == (100, 37) and small[50, 0] == 1 and small[99, 36] == 1
    assert small.sum() == 2


# ---- the page ----


def test_the_page_holds_what_the_run_holds(model: lp.Model, run: lp.Run, tmp_path: Path):
    path = run.html(tmp_path / "report.html", model=model, heads=[(3, 1)])
    text = path.read_text("utf-8")
    for part in ("Tokens", "Norms of x", "Patterns", "layer 2, mean of its heads", "Lens"):
        assert part in text
    assert text.count("<img") == 1 + 4 + 1 and "layer 3, head 1" in text
    assert "default-src 'none'" in text and "http:" not in text and "https:" not in text
    plain = model.run(STORY, points="z").html(tmp_path / "plain.html").read_text("utf-8")
    assert "Tokens" in plain and "<img" not in plain and "Lens" not in plain


@pytest.mark.slow
def test_a_page_of_many_tokens_is_small(model: lp.Model, tmp_path: Path):
    ids = np.random.default_rng(0).integers(0, 960, 2000)
    run = model.run(ids, points=("x", "x_out", "pattern"))
    pattern = run["pattern"]
    pattern[:] = np.random.default_rng(1).random(pattern.shape, np.float32)  # that do not compress
    path = run.html(tmp_path / "long.html", model=model, heads=[(0, 0), (1, 2)])
    assert path.stat().st_size < 2_000_000


def test_what_a_page_refuses(model: lp.Model, run: lp.Run, tmp_path: Path):
    with pytest.raises(lp.ArgumentError, match="no head 4"):
        run.html(tmp_path / "a.html", heads=[(3, 4)])
    with pytest.raises(lp.PointError, match="layer 3, whose pattern the run lacks"):
        model.run(STORY).html(tmp_path / "a.html", heads=[(3, 1)])
    with pytest.raises(lp.FileError):
        run.html(tmp_path / "missing" / "a.html")
    assert list(tmp_path.iterdir()) == []


def browse(page: Path, *flags: str) -> tuple[str, str]:
    """The page's DOM after its script ran, and what the browser logged about it."""
    command = [
        *(str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
        *("--enable-logging=stderr", "--virtual-time-budget=2000", "--hide-scrollbars"),
        *(f"--user-data-dir={page.parent / 'profile'}", *flags, page.as_uri()),
    ]
    env = {**os.environ, "HOME": str(page.parent)}
    done = subprocess.run(command, capture_output=True, timeout=120, env=env, check=True)
    log = done.stderr.decode("utf-8", "replace")
    console = [line for line in log.splitlines() if "CONSOLE" in line]
    return done.stdout.decode("utf-8", "replace"), "\n".join(console)


@pytest.mark.slow
@chromium
def test_a_browser_runs_only_the_page_s_own_script(
    model: lp.Model, hostile: lp.Run, tmp_path: Path
):
    page = hostile.html(tmp_path / "page.html", model=model)
    text = page.read_text("utf-8")
    page.write_text(text.replace('max="3" value="0"', 'max="3" value="2"'), "utf-8")
    dom, console = browse(page, "--dump-dom")
    assert console == "" and "<title>Run of demo</title>" in dom
    hidden = re.findall(r'<figure data-i="(\d)"( hidden)?', dom)
    assert [bool(h) for _, h in hidden] == [True, True, False, True], "the slider stands at 2"
    assert "<h1>out" not in dom and 'src="x"' not in dom
    injected = text.replace("</body>", "<script>document.title='pwned'</script></body>")
    page.write_text(injected, "utf-8")
    dom, console = browse(page, "--dump-dom")
    assert "<title>Run of demo</title>" in dom and "Content Security Policy" in console


@pytest.mark.slow
@chromium
def test_both_themes_are_legible(model: lp.Model, run: lp.Run, tmp_path: Path):
    image = pytest.importorskip("matplotlib.image")
    edits = edits_of_a_run(model)
    edited = model.run(STORY, points="all", edits=edits)
    metric = lp.logprob(3)
    pieces = [
        *(model, run, run.tokens, model.lens(run, position=None), model.attribute(run, 3)),
        *(edits, edited.edits, lp.diff(run, edited), model.sweep(STORY, [edits], metric)),
        model.patch_map(STORY, STORY.replace("Ho", "He"), metric=metric),
    ]
    for name, style in (("light", "#fff;color:#111"), ("dark", "#111;color:#eee")):
        page = tmp_path / f"{name}.html"
        body = "".join(piece._repr_html_() for piece in pieces)
        page.write_text(f"<meta charset=utf-8><body style='background:{style}'>{body}", "utf-8")
        picture = tmp_path / f"{name}.png"
        _, console = browse(page, f"--screenshot={picture}", "--window-size=900,2400")
        assert console == ""
        grey = image.imread(picture)[:, :, :3].mean(axis=2)
        assert abs(np.median(grey) - (name == "light")) < 0.1
        assert np.ptp(grey) > 0.6, "text stands out from what is behind it"


def test_nothing_here_is_imported_by_llamaprobe():
    code = (
        "import sys, llamaprobe; print([m for m in sys.modules if m.startswith('llamaprobe.')"
        " and m.split('.')[1] in ('views', 'plot', 'lens') or m == 'matplotlib'])"
    )
    done = subprocess.run(
        [shutil.which("python") or "python", "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


with contextlib.suppress(ImportError):
    import IPython.core.completer  # noqa: F401

    def test_ipython_completes_and_shows(model: lp.Model):
        from IPython.core.interactiveshell import InteractiveShell

        shell = InteractiveShell.instance()
        shell.user_ns["run"] = model.run(STORY, points=("x", "x_out"))
        _, found = shell.complete('run["', 'run["', 5)
        assert {"x", "x_out"} <= {each.rpartition('"')[2] for each in found}
        shown, _ = shell.display_formatter.format(shell.user_ns["run"])
        assert "Run of demo" in shown["text/html"] and "in all; try" in shown["text/plain"]
