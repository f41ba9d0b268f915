"""The command line: what it prints and where, one line for a mistake, and the exit codes."""

import fcntl
import json
import os
import re
import struct
import subprocess
import sys
import termios

import numpy as np
import pytest

import llamaprobe as lp
from llamaprobe.messages import printable
from llamaprobe.points import all_points
from llamaprobe.prompts.tokenizer import Tokenizer
from llamaprobe.saved_run import read_run

LP = [sys.executable, "-m", "llamaprobe"]
IDS = "1, 40 7\n[96 3] # a comment\n"


@pytest.fixture
def folder(random_checkpoint):
    return random_checkpoint()


@pytest.fixture
def ids(tmp_path):
    path = tmp_path / "ids.txt"
    path.write_text(IDS)
    return str(path)


# ---- run ----


def test_run_writes_the_files_and_prints_their_names(command, folder, ids, tmp_path):
    out = tmp_path / "out"
    code, printed, errors = command("run", folder, "--ids", ids, "--out", out)
    assert code == 0
    n_bytes = sum(path.stat().st_size for path in out.iterdir())
    assert errors == (
        f"llamaprobe: 12 files, {n_bytes / 1000:.1f} kB, in {out}: 5 tokens, x, x_norm\n"
    )
    assert printed.splitlines() == [
        str(path) for path in map(out.joinpath, [os.path.basename(n) for n in printed.split()])
    ]
    assert sorted(os.listdir(out)) == sorted(os.path.basename(name) for name in printed.split())
    run = lp.load(folder).run([1, 40, 7, 96, 3])
    assert read_run(out)["x_norm"].tobytes() == run["x_norm"].tobytes()


def test_run_options(command, folder, tmp_path):
    np.save(tmp_path / "ids.npy", np.array([5, 6, 7]))
    out = tmp_path / "out"
    options = [
        "--points",
        "q,logits",
        "--points",
        "z",
        "--layers",
        "0,-1",
        "--format",
        "txt",
        "--digits",
        "3",
    ]
    code, _, _ = command(
        "run", folder, "--ids", tmp_path / "ids.npy", "--out", out, "--no-masks", *options
    )
    assert code == 0
    expected = {f"{point}_layer{i}.txt" for point in "qz" for i in (0, 2)}
    expected |= {"logits.txt", "meta_layer0.json", "meta_layer2.json", "manifest.json"}
    assert set(os.listdir(out)) == expected
    assert (out / "q_layer0.txt").read_text().split("\n")[1].count("e") == 64
    code, printed, errors = command(
        "run", folder, "--ids", tmp_path / "ids.npy", "--out", out, *options
    )
    assert (code, printed) == (1, "") and errors.count("\n") == 1 and "--force" in errors
    assert command("run", folder, "--ids", tmp_path / "ids.npy", "--out", out, "--force")[0] == 0


def test_threads_and_progress_do_not_change_a_byte(command, folder, ids, tmp_path):
    for i, options in enumerate(([], ["--threads", "3"], ["--progress"])):
        assert command("run", folder, "--ids", ids, "--out", tmp_path / str(i), *options)[0] == 0
    files = [
        json.loads((tmp_path / str(i) / "manifest.json").read_text())["files"] for i in range(3)
    ]
    assert files[0] == files[1] == files[2]


def test_commands_parse_the_tokenizer_once(command, tmp_path, monkeypatch):
    opened, parse = [], Tokenizer._open
    monkeypatch.setattr(Tokenizer, "_open", lambda self: (opened.append(self), parse(self)))
    for words in (
        ["run", "demo", "Once", "--json"],
        ["run", "demo", "Once", "--out", tmp_path / "o", "--json"],
        ["verify", tmp_path / "o"],
    ):
        assert command(*words)[0] == 0 and len(opened) == 1
        opened.clear()


def test_the_columns_of_verify_are_aligned(command, tmp_path):
    command("run", "demo", "Once", "--out", tmp_path / "o")
    lines = command("verify", tmp_path / "o")[1].splitlines()[1:]
    assert len(lines) > 4 and {line.find("  ok") for line in lines if "  ok" in line} == {39}


def test_run_without_out_is_a_summary(command, folder, ids):
    code, printed, errors = command("run", folder, "--ids", ids)
    run = lp.load(folder).run([1, 40, 7, 96, 3], points=["x", "logits"])
    assert code == 0 and "nothing was written" in errors
    assert printed.startswith("5 tokens: 1 | 40 | 7 | 96 | 3\n")
    assert "x           float32 [3, 5, 48]\n" in printed and "logits  " not in printed
    size = np.sqrt(np.mean(run["x", 2].astype(np.float64) ** 2))
    assert f"    2{size:>14.6g}" in printed
    share, likeliest = printed.split("likeliest next tokens\n")[1].splitlines()[0].split()  # no text
    assert int(likeliest) == run["logits"][-1].argmax() and re.fullmatch(r"0\.0*[1-9]\d\d", share)
    code, printed, _ = command(
        "run", folder, "--ids", ids, "--points", "scores,final_norm", "--layers", "1"
    )
    assert code == 0 and "final_norm  float32 [5, 48]" in printed and "likeliest" not in printed


@pytest.mark.slow
def test_a_prompt_and_a_chat_of_a_real_model(command, smollm2, tmp_path):
    prompt = "What is the capital of France?"
    code, printed, _ = command("run", smollm2, prompt, "--chat")
    assert code == 0 and "The" in printed.split("likeliest next tokens\n")[1].splitlines()[0]
    assert (
        command("run", smollm2, prompt, "--chat", "--out", tmp_path / "o", "--layers", "0")[0] == 0
    )
    back = read_run(tmp_path / "o")
    run = lp.load(smollm2).run([{"role": "user", "content": prompt}], layers=[0])
    assert back.prompt == run.prompt and back.template_date == run.template_date
    assert back.tokens == run.tokens and "".join(back.tokens) == run.prompt
    assert back["x"].tobytes() == run["x"].tobytes()


@pytest.mark.parametrize("text", ["1 2 x", "1.5", "-1", "1 99999999999", "1 \x1b[31m"])
def test_rejects_text_that_is_not_ids(command, folder, tmp_path, text):
    path = tmp_path / "ids"
    path.write_text("1 2\n" + text)
    code, printed, errors = command("run", folder, "--ids", path)
    assert (code, printed) == (1, "") and errors.startswith(f"llamaprobe: {path}: line 2: ")
    assert errors.count("\n") == 1 and "\x1b" not in errors


# ---- mistakes ----


def test_a_mistake_is_one_line_and_exit_1(command, folder, ids, tmp_path):
    (tmp_path / "empty").write_text("")
    for args, message in (
        (["run", folder, ""], "the prompt is empty"),
        (["run", folder, "--ids", tmp_path / "empty"], "the prompt is empty"),
        (["run", folder, "text"], "tokenizer"),
        (["run", folder, "--ids", tmp_path / "missing"], "No such file"),
        (["run", tmp_path / "nowhere", "x"], "no such folder"),
        (["run", folder, "--ids", ids, "--points", "x_nrom"], "x_norm"),
        (["run", folder, "--ids", ids, "--layers", "7"], "no layer 7; the model has 0 to 2"),
        (["run", folder, "--ids", ids, "--points", "k6"], "no layer 6; the model has 0 to 2"),
        (["run", folder, "--ids", ids, "--points", "xnorm"], "near: x_norm"),
        (["run", tmp_path, "x"], f"not a model folder; it holds: empty, ids.txt, {folder.name}"),
        (["run", "https://huggingface.co/org/name/tree/main", "x"], "owner/name; give org/name"),
        (["run", "http://localhost/one", "x"], "not a repo id, which looks like owner/name; give one"),
        (["run", "~/models/x", "x"], f"{os.path.expanduser('~/models/x')}: no such folder"),
        (["points", folder / "model.safetensors"], "a single file is not a model"),
        (["run", folder, "--ids", ids, "--out", "/proc/nowhere"], "/proc/nowhere"),
        (["run", folder, "--ids", ids, "--out", tmp_path / "empty"], "is not a folder"),
        (["inspect", tmp_path / "nowhere"], "no such folder"),
        (["inspect", tmp_path], "model.safetensors"),
        (["inspect", tmp_path / "empty"], "8 bytes"),
        (["weights", folder, "--out", tmp_path / "o", "--filter", "nothing"], "matches none"),
        (["weights", folder, "--out", "/proc/nowhere"], "/proc/nowhere"),
        (["weights", folder, "--list", "--dtype", "raw"], "npy"),
        (["verify", tmp_path, "--model", folder], "manifest.json"),
    ):
        code, printed, errors = command(*args)
        assert (code, printed) == (1, ""), args
        assert (
            errors.startswith("llamaprobe: ") and errors.count("\n") == 1 and message in errors
        ), errors


def test_wrong_usage_is_exit_2(command, folder, ids):
    for args in (
        [],
        ["walk"],
        ["run"],
        ["run", folder],
        ["run", folder, "x", "--ids", ids],
        ["run", folder, "--ids", ids, "--chat"],
        ["run", folder, "x", "--digits", "26"],
        ["run", folder, "x", "--digits", "two"],
        ["run", folder, "x", "--layers", "3-"],
        ["run", folder, "x", "--layers", "-"],
        ["run", folder, "x", "--layers", "1--3"],
        ["run", folder, "x", "--threads", "0"],
        ["run", folder, "x", "--format", "xls"],
        ["weights", folder],
        ["verify"],
    ):
        code, printed, errors = command(*args)
        assert (code, printed) == (2, "") and errors.count("\n") == 1, args
        assert re.fullmatch(r"(llamaprobe( run| weights| verify)?): error: .*; see \1 --help\n", errors)


def usage_error(command, *args):
    """What is wrong, without the hint behind it."""
    code, printed, errors = command(*args)
    assert (code, printed) == (2, "") and errors.count("\n") == 1, args
    return errors.partition(": error: ")[2].rpartition("; see ")[0]


def test_no_option_is_dropped_silently(command, folder, ids, tmp_path):
    run = ("run", folder, "--ids", ids)
    for options in (["--format", "csv"], ["--digits", 0], ["--no-masks"], ["--hash-weights"], ["--force"]):
        assert usage_error(command, *run, *options) == f"{options[0]} is for --out DIR"
    assert usage_error(command, "run", folder, "x", "--date", "today") == (
        "--date is for --chat or --messages FILE"
    )
    for style in ("npy", "hex", "q4.4"):
        options = ("--out", tmp_path / "o", "--format", style, "--digits", 5)
        for args in (run, ("weights", folder)):
            printed = usage_error(command, *args, *options)
            assert printed == f"--digits is for csv and txt, not for {style}"
    assert not (tmp_path / "o").exists()
    for model in ("demo", folder, folder / "model.safetensors"):
        for args in (["run", model, "x"], ["inspect", model], ["weights", model, "--list"], ["bench", model]):
            printed = usage_error(command, *args, "--revision", "main")
            assert printed == f"--revision is for a repo, which {model} is not"
    assert usage_error(command, "verify", folder, "--revision", "main") == "--revision is for --model"
    assert usage_error(command, "points", "--revision", "main") == "--revision is for MODEL"
    assert usage_error(command, *run, "--layers", "0,3-1").endswith("'3-1' runs backwards: write 1-3")


def test_an_empty_name_is_not_the_current_folder(command, folder, ids, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = sorted(os.listdir())
    for args in (
        ["run", folder, "--ids", ids, "--out", ""],
        ["run", folder, "--ids", ""],
        ["run", "", "x"],
        ["weights", folder, "--out", ""],
        ["weights", "", "--list"],
        ["inspect", ""],
        ["points", ""],
        ["bench", ""],
        ["verify", ""],
        ["verify", folder, "--model", ""],
        ["download", "org/name", "--local-dir", ""],
        ["download", "org/name", "--cache-dir", ""],
        ["download", "--from", ""],
        ["download", ""],
    ):
        assert usage_error(command, *args).endswith("the name is empty")
    assert sorted(os.listdir()) == before


def test_help_and_version(command):
    assert command("--version")[:2] == (0, f"llamaprobe {lp.__version__}\n")
    code, printed, _ = command("--help")
    assert code == 0
    for name in ("run", "points", "inspect", "weights", "verify", "bench", "download"):
        assert f"\n    {name} " in printed
        assert command(name, "--help")[0] == 0
    assert "; 3: nothing is wrong, but" in " ".join(command("verify", "--help")[1].split())
    assert "`llamaprobe points` lists" in " ".join(command("run", "--help")[1].split())


# ---- points ----


def test_points_lists_all_of_them(command, folder):
    code, printed, errors = command("points")
    points = all_points()
    assert (code, errors) == (0, "") and len(printed.splitlines()) == len(points)
    for line, point in zip(printed.splitlines(), points, strict=True):
        assert line.split()[0] == point.name and point.shape in line and line.endswith(point.formula)
    code, printed, _ = command("points", folder)
    lines = {line.split()[0]: line for line in printed.splitlines()}
    assert code == 0 and list(lines) == [point.name for point in lp.Model.points()]
    run = lp.load(folder).run([1, 40, 7, 96, 3], points=[*lines])
    for name, line in lines.items():
        shape = list(run[name, 1].shape if run.layers_of(name) else run[name].shape)
        assert str(shape).replace("5", "T") in line, name  # 5 tokens; no size has a 5


# ---- inspect ----


def test_inspect(command, random_checkpoint):
    folder = random_checkpoint(n_shards=2)
    code, printed, errors = command("inspect", folder)
    assert (code, errors) == (0, "")
    model = lp.load(folder)
    lines = printed.splitlines()
    assert (
        f"{model.n_params:,} parameters" == lines[-1] and f"{len(model.weights)} tensors" in lines
    )
    line = next(line.split() for line in lines if "layers.1.mlp.up_proj" in line)
    assert line == ["model.layers.1.mlp.up_proj.weight", "BF16", "[80,", "48]", "7,680", "bytes"]
    code, printed, _ = command("inspect", folder, "--json")
    data = json.loads(printed)
    assert data["parameters"] == model.n_params and data["config"]["n_kv_heads"] == 2
    assert {t["name"]: tuple(t["shape"]) for t in data["tensors"]} == {
        n: w.shape for n, w in model.weights.items()
    }
    assert [file["name"] for file in data["files"]] == sorted(
        p.name for p in folder.glob("*.safetensors")
    )


def test_inspects_a_file_and_a_folder_that_cannot_run(command, random_checkpoint, tmp_path):
    folder = random_checkpoint()
    code, printed, _ = command("inspect", folder / "model.safetensors", "--json")
    assert code == 0 and "config" not in json.loads(printed)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "qwen3"}))
    code, printed, _ = command("inspect", folder)
    assert code == 0 and "cannot be run: " in printed and "qwen3" in printed and "30 tensors" in printed
    (folder / "config.json").unlink()
    assert "there is no config.json" in command("inspect", folder)[1]
    (folder / "config.json").write_text("{")
    code, printed, errors = command("inspect", folder)
    assert (code, printed) == (1, "") and errors.count("\n") == 1


def test_escapes_control_characters_of_a_file(command, tmp_path):
    name = "\x1b[31mred\x07\u202e"
    header = {
        name: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
        "__metadata__": {"\x1b]0;": "\r\x9b"},
    }
    text = json.dumps(header).encode()
    (tmp_path / "m.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(4))
    for args in (["inspect"], ["weights", "--list"], ["weights", "--out", tmp_path / "o"]):
        code, printed, errors = command(args[0], tmp_path / "m.safetensors", *args[1:])
        assert code == 0 and not any(c in printed + errors for c in "\x1b\x07\u202e\r\x9b")
    code, _, errors = command("run", tmp_path / f"no{name}", "x")
    assert code == 1 and "\x1b" not in errors and errors.count("\n") == 1
    assert printable(name) in command("inspect", tmp_path / "m.safetensors")[1]


# ---- weights ----


def test_weights(command, folder, tmp_path):
    code, printed, errors = command(
        "weights", folder, "--list", "--format", "npy", "--filter", "*.norm.*"
    )
    assert (code, errors) == (0, "")
    assert printed.splitlines()[-1] == "1 file, 320 bytes" and "~" not in printed
    code, printed, _ = command("weights", folder, "--list")
    assert printed.splitlines()[-1].startswith("30 files, estimated ") and " ~" in printed
    assert not (tmp_path / "o").exists()
    code, printed, errors = command(
        "weights", folder, "--out", tmp_path / "o", "--exclude", "re:layers", "--digits", "4"
    )
    assert code == 0 and re.fullmatch(rf"llamaprobe: 4 files, .* kB, in {tmp_path}/o\n", errors)
    names = [
        "lm_head.weight.csv",
        "model.embed_tokens.weight.csv",
        "model.norm.weight.csv",
        "manifest.json",
    ]
    assert sorted(printed.split()) == sorted(str(tmp_path / "o" / name) for name in names)
    again = command("weights", folder, "--out", tmp_path / "o", "--digits", "4")
    assert again[0] == 0 and again[2].endswith("/o; 3 of them were whole already\n")


def test_a_bar_in_bytes_on_a_terminal(folder, tmp_path):
    screen, terminal = os.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("4H", 40, 100, 0, 0))
    args = [*LP, "weights", folder, "--out", tmp_path / "o"]
    subprocess.run(args, stdout=subprocess.DEVNULL, stderr=terminal, check=True)
    os.close(terminal)
    assert re.search(rb"0%\|.*/[0-9.]+k \[.*B/s\]", os.read(screen, 1 << 16))
    os.close(screen)


def test_formats_for_hardware(command, folder, ids, tmp_path):
    norm = ("weights", folder, "--filter", "model.norm.weight", "--format")
    code, printed, _ = command(*norm, "hex", "--dtype", "raw", "--list")
    assert code == 0 and printed.splitlines()[-1] == "1 file, 269 bytes"
    code, _, errors = command(*norm, "q1.7", "--out", tmp_path / "o")
    entry = json.loads((tmp_path / "o/manifest.json").read_text())["files"]["model.norm.weight.hex"]
    assert code == 0 and entry["saturated"] > 0
    assert errors.endswith(f"/o; {entry['saturated']} saturated\n")
    run = ("run", folder, "--ids", ids, "--format", "q8.8", "--out", tmp_path / "run")
    assert command(*run)[0] == 0
    assert command("verify", tmp_path / "run", "--model", folder)[0] == 0
    for wrong in ("xls", "q0.8", "q20.20", "q4"):
        assert command("weights", folder, "--list", "--format", wrong)[0] == 2


# ---- processes ----


def test_a_pipe_closed_early_is_not_an_error(folder):
    script = f"{sys.executable} -m llamaprobe inspect {folder}; echo $? >&2"
    run = subprocess.run(["sh", "-c", f"({script}) | true"], capture_output=True, text=True)
    assert run.stderr.strip() in ("0", "141")


@pytest.mark.linux
def test_a_full_stdout_is_an_error(folder):
    for args in (["inspect", folder], ["weights", folder, "--list"]):
        with open("/dev/full", "w") as full:
            run = subprocess.run([*LP, *args], stdout=full, stderr=subprocess.PIPE, text=True)
        assert run.returncode == 1
        assert run.stderr.startswith("llamaprobe: stdout: the results could not be printed: ")
        assert "No space left" in run.stderr
        assert run.stderr.count("\n") == 1


def test_output_to_a_terminal_without_utf_8(folder, ids):
    env = os.environ | {"PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    run = subprocess.run([*LP, "run", folder, "--ids", ids], capture_output=True, env=env)
    assert run.returncode == 0, run.stderr


def test_heavy_modules_are_not_imported_for_help():
    script = """
import sys
from llamaprobe.cli.main import main
try:
    main(["run", "--help"])
except SystemExit:
    heavy = {"numpy", "requests", "tokenizers", "jinja2", "tqdm", "llamaprobe._core"}
    print("heavy:", heavy & set(sys.modules) or "none")
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.endswith("heavy: none\n")
