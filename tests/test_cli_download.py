"""llamaprobe download at the command line: options, output, exit codes."""

import hashlib
import io
from pathlib import Path

import pytest
from fakehub import FakeHub
from hub_fixtures import NEEDED, REPO_ID, add_model, chosen, hub, small_model, tree  # noqa: F401

from llamaprobe.cli.main import main


def run(*arguments: object) -> int:
    try:
        return main(["download", *map(str, arguments)])
    except SystemExit as end:
        return int(end.code or 0)


def test_prints_the_folder_on_stdout_and_all_else_on_stderr(
    hub: FakeHub, capsys: pytest.CaptureFixture
) -> None:
    files = add_model(hub)
    assert run(REPO_ID) == 0
    out, err = capsys.readouterr()
    assert tree(Path(out.strip())) == chosen(files) and out.count("\n") == 1
    assert "model.safetensors: 300.0 kB" in err and "/s" in err
    assert run(REPO_ID, "--offline") == 0 and capsys.readouterr() == (out, "")


def test_no_progress_when_the_environment_says_so(
    hub: FakeHub, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    hub.add(REPO_ID, small_model())
    assert run(REPO_ID) == 0 and capsys.readouterr().err == ""


def test_bars_on_a_terminal(
    hub: FakeHub, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    hub.add(REPO_ID, small_model())
    assert run(REPO_ID) == 0
    err = capsys.readouterr().err
    assert "model.safetensors" in err and "B/s" in err


def test_a_list_of_models_one_of_which_fails(
    hub: FakeHub, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    files = {f"org/m{n}": small_model(n) for n in range(3)}
    for repo_id in files:
        hub.add(repo_id, files[repo_id])
    models = tmp_path / "models.txt"
    models.write_bytes(
        "\ufefforg/m1 # the second\r\n\r\n# a comment\norg/gone\norg/m2\norg/m1\n".encode()
    )
    assert run("org/m0", "--from", models, "--local-dir", tmp_path / "all") == 1
    out, err = capsys.readouterr()
    assert out.splitlines() == [str(tmp_path / "all" / f"org_m{n}") for n in range(3)]
    assert "org/gone at main: not found" in err and "1 of 4 failed: org/gone" in err
    for n in range(3):
        assert tree(tmp_path / "all" / f"org_m{n}") == chosen(files[f"org/m{n}"])
    assert run("org/m0", "--local-dir", tmp_path / "one") == 0
    assert (tmp_path / "one" / "config.json").is_file()


def test_rejects_bad_lists_of_models(
    hub: FakeHub, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    (tmp_path / "empty").write_bytes(b"\n# nothing\n")
    for arguments in (
        ["--from", tmp_path / "none"],
        ["--from", tmp_path / "binary"],
        ["--from", tmp_path / "empty"],
    ):
        assert run(*arguments) == 1
        assert capsys.readouterr().err.count("\n") == 1
    assert hub.seen == []


def test_a_dry_run_lists_and_fetches_nothing(
    hub: FakeHub, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    files = add_model(hub)
    assert run(REPO_ID, "--dry-run") == 0
    out, err = capsys.readouterr()
    rows = [line.split("\t") for line in out.splitlines()]
    assert sorted(row[1] for row in rows) == NEEDED
    assert all(int(row[2]) == len(files[row[1]]) and row[3] == "to fetch" for row in rows)
    assert hub.requests("cdn") == hub.requests("resolve") == [] and not (tmp_path / "hf").exists()


def test_a_dry_run_cannot_be_offline(hub: FakeHub, capsys: pytest.CaptureFixture) -> None:
    assert run(REPO_ID, "--dry-run", "--offline") == 2
    assert "--offline does not" in capsys.readouterr().err and hub.seen == []


def test_check_sends_no_request(
    hub: FakeHub, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    hub.add(REPO_ID, small_model())
    assert run(REPO_ID) == 0
    folder = Path(capsys.readouterr().out.strip())
    hub.forget()
    assert run(REPO_ID, "--check") == 0 and run(folder, "--check") == 0
    assert capsys.readouterr().out.count("ok\t") == 2 * len(NEEDED)
    (folder / "tokenizer.json").resolve().write_bytes(b"x")
    assert run(REPO_ID, "--check") == 1
    out, err = capsys.readouterr()
    assert "damaged\ttokenizer.json" in out and "1 of 6 files damaged or missing" in err
    assert hub.seen == []


def test_check_of_a_plain_folder(
    hub: FakeHub, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    hub.add("a/b", small_model())
    hub.add("a/c", small_model(1))
    place = ["--local-dir", tmp_path / "all"]
    assert run("a/b", "a/c", *place) == 0
    (tmp_path / "all/a_c/config.json").write_bytes(b"x")
    capsys.readouterr()
    assert run("a/b", "a/c", *place, "--check") == 1
    assert "1 of 2 failed: a/c" in capsys.readouterr().err
    assert run("a/b", "--local-dir", tmp_path / "all/a_b", "--check") == 0


def test_a_failure_among_several_names_its_model(
    hub: FakeHub, capsys: pytest.CaptureFixture
) -> None:
    hub.add("a/b", small_model())
    hub.add("a/c", small_model(1))
    sha256 = hashlib.sha256(small_model(1)["model.safetensors"]).hexdigest()
    hub.fault("flip", method="GET", path=f"/{sha256}", times=10)
    assert run("a/b", "a/c") == 1
    assert "llamaprobe: a/c: model.safetensors: all 300000 bytes arrived" in capsys.readouterr().err


def test_include_exclude_and_layers_reach_the_download(hub: FakeHub, tmp_path: Path) -> None:
    hub.add(REPO_ID, small_model())
    assert (
        run(
            REPO_ID,
            "--include",
            "*.json",
            "--exclude",
            "tok*",
            "--exclude",
            "spec*",
            "--local-dir",
            tmp_path / "x",
        )
        == 0
    )
    assert sorted(tree(tmp_path / "x")) == ["config.json", "generation_config.json"]
    assert run(REPO_ID, "--layers", "9-") == 2


def test_a_token_comes_from_stdin_and_never_from_the_command_line(
    hub: FakeHub, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add(REPO_ID, small_model(), gated=True)
    for arguments in (
        ["--token", hub.token],
        [f"--token={hub.token}"],
        ["--tok", hub.token],
        ["--token-std", hub.token],
    ):
        code = run(REPO_ID, *arguments)
        out, err = capsys.readouterr()
        assert code == 2 and (arguments[0].startswith("--tok") and hub.token not in out)
        if arguments[0].startswith("--token") and not arguments[0].startswith("--token-"):
            assert hub.token not in err and "HF_TOKEN" in err
    assert hub.seen == []
    monkeypatch.setattr("sys.stdin", io.StringIO(hub.token + "\n"))
    assert run(REPO_ID, "--token-stdin") == 0
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert run(REPO_ID, "--token-stdin") == 1
    assert hub.token not in "".join(capsys.readouterr())


def test_a_folder_needs_no_download(
    hub: FakeHub, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    fact = "is a folder that is here already and needs no download"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "mine").mkdir(parents=True)
    for name in (tmp_path, tmp_path / "models" / "mine", "models", "./models", "models/mine/", "."):
        assert run(name) == 1
        out, err = capsys.readouterr()
        assert (out, err) == ("", f"llamaprobe: {name}: {fact}\n")
    assert hub.seen == []
    assert run("models/mine") == 1, "this may be a repository too"
    err = capsys.readouterr().err
    assert "not found, or private" in err and f"(models/mine: {fact})" in err
    hub.add("models/mine", small_model())
    assert run("models/mine") == 0
    assert run("models/mine", "--local-dir", "models/mine") == 0
    assert run("models/mine", "--local-dir", "models/mine") == 0
    assert run("models/mine", "--check") == 0
