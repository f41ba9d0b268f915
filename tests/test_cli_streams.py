"""Standard streams that are missing, closed or full: no traceback, the work is done, and the exit
code says whether the results could be printed."""

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from fakehub import FakeHub
from hub_fixtures import REPO_ID, hub, small_model  # noqa: F401
from hub_process import environment

import llamaprobe as lp
from llamaprobe.cli import main as cli
from llamaprobe.points import all_points

LOST = "llamaprobe: stdout is closed: the results could not be printed\n"
COMMANDS = [
    ["run", "demo", "Once"],
    ["run", "demo", "Once", "--out", "o"],
    ["run", "demo", "Once", "--out", "o", "--json", "--progress"],
    ["points", "--json"],
    ["inspect", "demo"],
    ["weights", "demo", "--list"],
    ["weights", "demo", "--out", "w", "--filter", "*norm*"],
    ["verify", "saved"],
    ["bench", "demo", "--tokens", "2", "--repeat", "1"],
    ["--version"],
    ["run", "--help"],
]
MISTAKES = [["run", "nowhere", "x"], ["run"], ["walk"], ["download", "a/b/c"], ["verify", "nowhere"]]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    lp.load("demo").run("Once", points="x").save(tmp_path / "saved")
    return tmp_path


def shell(place: Path, words: list[str], streams: str) -> subprocess.CompletedProcess[str]:
    """The command with its streams as a shell redirects them."""
    script = f'exec "$0" "$@" {streams}'
    return subprocess.run(
        ["sh", "-c", script, sys.executable, "-m", "llamaprobe", *words],
        cwd=place,
        env=environment(HF_HUB_OFFLINE="1"),
        capture_output=True,
        text=True,
        timeout=120,
    )


def written(place: Path) -> list[str]:
    return sorted(str(p.relative_to(place)) for p in place.rglob("*") if p.is_file())


@pytest.mark.linux
@pytest.mark.slow
@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_closed_streams(place: Path, words: list[str]):
    without_stdout = shell(place, words, ">&-")
    notes = without_stdout.stderr.removesuffix(LOST)
    assert without_stdout.returncode == 1 and without_stdout.stderr.endswith(LOST)
    assert "Traceback" not in notes and notes.count("\n") <= 1 or "--progress" in words
    files = written(place)
    if "--out" in words:
        assert any(name.endswith("manifest.json") for name in files if name[0] != "s")
        words = [*words, "--force"]
    without_stderr = shell(place, words, "2>&-")
    assert (without_stderr.returncode, without_stderr.stderr) == (0, "") and without_stderr.stdout
    assert written(place) == files
    nothing = shell(place, words, ">&- 2>&- <&-")
    assert (nothing.returncode, nothing.stdout, nothing.stderr) == (1, "", "")
    assert shell(place, words, "2>/dev/full").returncode == 0
    full = shell(place, words, ">/dev/full")
    fact = "stdout: the results could not be printed: [Errno 28] No space left on device\n"
    assert full.returncode == 1 and full.stderr.endswith(fact)


@pytest.mark.slow
@pytest.mark.parametrize("words", MISTAKES, ids=" ".join)
def test_a_mistake_without_stderr_prints_nothing_on_stdout(place: Path, words: list[str]):
    whole, without = shell(place, words, ""), shell(place, words, "2>&-")
    assert whole.stderr.count("\n") == 1 or words[0] == "verify"
    assert (without.returncode, without.stdout, without.stderr) == (whole.returncode, "", "")
    assert whole.returncode in (1, 2)


def test_no_file_gets_the_number_of_a_stream(place: Path):
    """A descriptor that is free would be the next file's, and notes would be written into it."""
    done = shell(place, ["run", "demo", "Once", "--out", "o", "--progress"], "<&- >&- 2>&-")
    assert done.returncode == 1
    assert lp.read_run(place / "o")["x"].tobytes() == lp.load("demo").run("Once")["x"].tobytes()


def missing(kind: str) -> io.TextIOBase | None:
    if kind == "none":
        return None
    stream = io.StringIO()
    stream.close()
    return stream


@pytest.mark.parametrize("kind", ["none", "closed"])
def test_a_program_without_streams(
    kind: str, hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    hub.add(REPO_ID, small_model())
    for fault in ("status", "drop"):
        hub.fault(fault, where="cdn", method="GET")
    monkeypatch.setattr(sys, "stderr", missing(kind))
    monkeypatch.setattr(sys, "stdout", missing(kind))
    before = sys.stdout, sys.stderr
    folder = lp.download(REPO_ID)
    assert (folder / "model.safetensors").exists()
    assert lp.load("demo").run("Once", progress=True)["x"].shape == (4, 2, 128)
    assert len(lp.export_weights("demo", tmp_path / "w", filter="*norm*", progress=True)) > 2
    assert cli.main(["run", "demo", "Once", "--out", str(tmp_path / "o"), "--progress"]) == 1
    assert (tmp_path / "o" / "manifest.json").exists()
    assert cli.main(["run", str(tmp_path / "nowhere"), "Once"]) == 1
    assert (sys.stdout, sys.stderr) == before


def test_lp_load_of_a_repo_without_stderr(hub: FakeHub, monkeypatch: pytest.MonkeyPatch):
    demo = Path(lp.__file__).parent / "demo"
    names = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
    hub.add(REPO_ID, {name: (demo / name).read_bytes() for name in names})
    monkeypatch.setattr(sys, "stderr", None)
    assert lp.load(REPO_ID).n_params == lp.load("demo").n_params


# ---- --quiet, --json ----


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["run", "demo", "Once", "--quiet"],
        ["run", "demo", "Once", "--out", "o", "--progress", "--quiet"],
        ["weights", "demo", "--out", "w", "--quiet"],
        ["verify", "saved", "--quiet"],
    ],
    ids=lambda words: words[0],
)
def test_quiet_leaves_the_results(place: Path, words: list[str]):
    loud = shell(place, [word for word in words if word != "--quiet"], "")
    quiet = shell(place, words + ["--force"] * ("--out" in words), "")
    assert loud.returncode == quiet.returncode == 0 and loud.stderr
    assert quiet.stderr == "" and quiet.stdout == loud.stdout != ""


def test_a_quiet_download_prints_errors(hub: FakeHub, capsys: pytest.CaptureFixture):
    hub.add(REPO_ID, small_model())
    hub.fault("status", where="api", status=503)
    assert cli.main(["download", "--quiet", REPO_ID]) == 0
    out, err = capsys.readouterr()
    assert out.count("\n") == 1 and err == ""
    assert cli.main(["download", REPO_ID, "org/gone", "--quiet"]) == 1
    assert "not found, or private" in capsys.readouterr().err
    assert cli.main(["download", REPO_ID, "--force"]) == 0
    assert "model.safetensors" in capsys.readouterr().err, "the next call is not quiet"


def test_run_json_matches_the_summary(command, tmp_path):
    model = lp.load("demo")
    run = model.run("Once upon", points=["x", "q", "logits"], layers=[1, 3])
    words = ["run", "demo", "Once upon", "--points", "x,q,logits", "--layers", "1,3", "--json"]
    code, out, err = command(*words)
    shown = json.loads(out)
    assert code == 0 and "nothing was written" in err and shown["files"] == []
    assert shown["token_ids"] == run.token_ids.tolist() and shown["tokens"] == run.tokens
    assert shown["prompt"] == "Once upon" and shown["layers"] == [1, 3]
    assert {n: p["shape"] for n, p in shown["points"].items()} == {
        n: list(run[n].shape) for n in ("x", "q", "logits")
    }
    human = command(*words[:-1])[1]
    for layer, x, q in zip(shown["layers"], shown["points"]["x"]["rms"], shown["points"]["q"]["rms"], strict=True):
        assert f"{layer:>5}{x:>14.6g}{q:>14.6g}\n" in human
    assert shown["points"]["logits"]["rms"] is None
    assert [token["id"] for token in shown["next_tokens"]] == (-run["logits"][-1]).argsort()[:5].tolist()
    assert 0 < sum(token["share"] for token in shown["next_tokens"]) <= 1
    assert shown["next_tokens"][0]["text"] == " a"
    code, out, _ = command(*words, "--out", tmp_path / "o")
    with_files = json.loads(out)
    assert sorted(with_files.pop("files")) == sorted(map(str, (tmp_path / "o").iterdir()))
    shown.pop("files")
    assert with_files == shown


def test_run_json_of_non_finite_values(command, random_checkpoint, tmp_path):
    """JSON has neither NaN nor Infinity: null instead."""
    import models

    folder = random_checkpoint()
    keys = models.make_config()
    weights = models.make_weights(keys)
    weights["model.norm.weight"][:] = 0x7FC0 if weights["model.norm.weight"].dtype.kind == "u" else "nan"
    models.write_checkpoint(tmp_path / "nan", keys, weights)
    (tmp_path / "ids").write_text("1 2")
    code, out, _ = command("run", tmp_path / "nan", "--ids", tmp_path / "ids", "--json")
    shown = json.loads(out, parse_constant=lambda word: pytest.fail(word))
    assert code == 0 and shown["next_tokens"] is None and shown["tokens"] is None
    assert folder.exists()


def test_points_json(command):
    points = json.loads(command("points", "--json")[1])
    assert [p["name"] for p in points] == [p.name for p in all_points()]
    run = lp.load("demo").run([1, 2, 3], points="all", layers=[0])
    own = json.loads(command("points", "demo", "--json")[1])
    assert [p["name"] for p in own] == list(run.points)
    for point in own:
        shape = [3 if size == "T" else size for size in point["shape"]]
        value = run[point["name"], 0] if point["per_layer"] else run[point["name"]]
        assert list(value.shape) == shape, point
