"""Chats on the command line: where the messages come from, what the template is given."""

import io
import json
import sys

import pytest
from small_tokenizer import byte_level, write_folder

from llamaprobe.saved_run import read_run

TEMPLATE = (
    "{% for m in messages %}<|head|>{{ m.role }}<|/head|>{{ m.content }}<|eot|>{% endfor %}"
    "{% if tools %}{{ tools | length }} tools{% endif %}"
    "{% if x is defined %}[{{ x | tojson }}]{% endif %}{{ date_string }}"
    "{% if add_generation_prompt %}<|head|>bot<|/head|>{% endif %}"
)
USER = "<|head|>user<|/head|>ab<|eot|>"
BOT = "<|head|>bot<|/head|>"
TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}


@pytest.fixture
def chat(command, random_checkpoint, tmp_path):
    """chat(*args) -> the run of `llamaprobe run FOLDER ARGS`, or the last line of its errors."""
    folder = random_checkpoint(vocab_size=265)
    write_folder(folder, byte_level(), template=TEMPLATE)

    def run(*args: object) -> object:
        out = tmp_path / f"out{len(list(tmp_path.iterdir()))}"
        code, _, errors = command("run", folder, *args, "--points", "x", "--out", out)
        if code == 0:
            return read_run(out)
        line = errors.splitlines()[-1]
        assert line.startswith("llamaprobe") and code in (1, 2)
        return code, line

    return run


def write(path, value) -> str:
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return str(path)


def test_a_message_and_a_system_message(chat):
    assert chat("ab", "--chat").prompt == USER + BOT
    printed = chat("ab", "--chat", "--system", "Be <|eot|>")
    assert printed.prompt == "<|head|>system<|/head|>Be <|eot|><|eot|>" + USER + BOT
    assert printed.tokens.count("<|eot|>") == 2
    assert chat("ab", "--chat", "--date", "2025-01-02").prompt == USER + "02 Jan 2025" + BOT


def test_messages_from_a_file(chat, tmp_path, monkeypatch):
    messages = [{"role": "user", "content": "ab"}, {"role": "bot", "content": "th"}]
    whole = USER + "<|head|>bot<|/head|>th<|eot|>"
    for more in ([], ["--chat"]):
        assert chat("--messages", write(tmp_path / "m", messages), *more).prompt == whole + BOT
    path = write(tmp_path / "o", {"messages": messages, "tools": [TOOL]})
    run = chat("--messages", path)
    assert run.prompt == whole + "1 tools" + BOT and run.meta["tools"] == [TOOL]
    assert chat("--messages", path, "--no-generation-prompt").prompt == whole + "1 tools"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(json.dumps(messages).encode())))
    run = chat("--messages", "-", "--continue-final-message")
    assert run.prompt == USER + "<|head|>bot<|/head|>th"
    assert run.meta["continue_final_message"] is True


def test_tools_from_a_file(chat, tmp_path):
    run = chat("ab", "--chat", "--tools", write(tmp_path / "t", [TOOL, TOOL]))
    assert run.prompt == USER + "2 tools" + BOT
    assert run.template_inputs == {"tools": [TOOL, TOOL]}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True),
        ("null", None),
        ("5", 5),
        ("-2.5", -2.5),
        ('"5"', "5"),
        ("yes", "yes"),
        ("", ""),
        ("a=b", "a=b"),
        ("[1]", [1]),
        ('{"a": [null]}', {"a": [None]}),
        ("[1", "[1"),
        ('{"a": 1, "a": 2}', '{"a": 1, "a": 2}'),
        ("99999999999999999999", "99999999999999999999"),
        ("NaN", "NaN"),
        ("1e999", "1e999"),
    ],
)
def test_template_variables(chat, text, value):
    run = chat("ab", "--chat", "--template-var", f"x={text}", "--template-var", "y=1")
    assert run.prompt == f"{USER}[{json.dumps(value)}]{BOT}"
    assert run.meta["template_vars"] == {"x": value, "y": 1}


@pytest.mark.parametrize(
    ("args", "fact"),
    [
        ([], "give a PROMPT, --ids FILE or --messages FILE, one of the three"),
        (["ab", "--messages", "m"], "one of the three"),
        (["--ids", "i", "--messages", "m"], "one of the three"),
        (["--ids", "i", "--chat"], "--chat is for text"),
        (["ab", "--system", "x"], "--system is for --chat or --messages FILE"),
        (["ab", "--template-var", "x=1"], "--template-var is for --chat"),
        (["ab", "--tools", "t"], "--tools is for --chat"),
        (["ab", "--continue-final-message"], "--continue-final-message is for --chat"),
        (["ab", "--no-generation-prompt"], "--no-generation-prompt is for --chat"),
        (["--messages", "m", "--system", "x"], "--system is for a PROMPT"),
        (["--messages", "-", "--tools", "-"], "cannot both be standard input"),
        (["ab", "--chat", "--template-var", "x"], "'x' is not NAME=VALUE"),
        (["ab", "--chat", "--template-var", "=x"], "'=x' is not NAME=VALUE"),
        (["ab", "--chat", "--template-var", "x=1", "--template-var", "x=2"], "x is given twice"),
    ],
)
def test_options_without_effect_are_wrong_usage(chat, args, fact):
    code, line = chat(*args)
    assert code == 2 and fact in line


@pytest.mark.parametrize(
    ("content", "fact"),
    [
        ("{", "Expecting"),
        ("[" * 100_000, "more than 64 levels of nesting"),
        ("[]", "at least one dict"),
        ('["text"]', "message 0"),
        ('[{"role": "user", "content": 5, "content": ""}]', 'duplicate key "content"'),
        ('[{"role": "user", "content": NaN}]', "NaN is not valid JSON"),
        ('{"tools": []}', "has no messages"),
        ('{"messages": [], "model": "x"}', "holds 'model'"),
        ("5", "chat messages"),
        ("version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
    ],
)
def test_rejects_files_without_messages(chat, tmp_path, content, fact):
    path = write(tmp_path / "m.json", content)
    code, line = chat("--messages", path)
    assert code == 1 and path in line and fact in line


def test_other_errors_of_chats(chat, tmp_path):
    missing = str(tmp_path / "none")
    assert missing in chat("--messages", missing)[1]
    both = write(tmp_path / "b", {"messages": [{"role": "u", "content": ""}], "tools": []})
    tools = write(tmp_path / "t", [TOOL])
    assert "has tools as well" in chat("--messages", both, "--tools", tools)[1]
    assert "tool 0: a int" in chat("ab", "--chat", "--tools", write(tmp_path / "i", [5]))[1]
    assert "leave it out" in chat("ab", "--chat", "--template-var", "bos_token=x")[1]


def test_json_as_editors_and_pipes_give_it(chat, tmp_path, monkeypatch):
    """With a byte order mark; empty; and errors name the standard input."""
    path, text = tmp_path / "m.json", json.dumps([{"role": "user", "content": "ab"}])
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert chat("--messages", path).prompt == USER + BOT
    path.write_bytes(b"\xef\xbb\xbf\r\n")
    assert chat("--messages", path)[1].endswith("m.json: is empty; it must hold JSON")
    for data, fact in {
        b"": "is empty; it must hold JSON",
        b'{"role": "user"}': "holds 'role'",
        b'[{"role": 1}]': "message 0: ",
        b"\xef\xbb\xbf[": "not valid JSON: Expecting value",
    }.items():
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        code, line = chat("--messages", "-")
        assert code == 1 and f"standard input: {fact}" in line
