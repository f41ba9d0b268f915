"""Chat templates: where they are found, what they render, and what the sandbox denies."""

import ast
import datetime
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_tokenizer import write_folder

from llamaprobe import ArgumentError, FileError, TemplateError
from llamaprobe.prompts import _render, sandbox
from llamaprobe.prompts import template as module
from llamaprobe.prompts.chat import ChatOptions, check_messages, pin_date
from llamaprobe.prompts.template import Template

ASK = [{"role": "user", "content": "Hi"}]
TALK = [
    {"role": "system", "content": " Be brief. "},
    {"role": "user", "content": "Zwölf < 13 & \"so\" 'on'\n"},
    {"role": "assistant", "content": "Ja 😀", "reasoning": "because"},
    {"role": "user", "content": "x"},
]
# What templates on the hub make use of, one feature each.
FEATURES = {
    "text": "plain\n",
    "trim blocks": "{% if true %}\n  a\n  {% endif %}\n{{- ' b' }}\n",
    "special tokens": "{{ bos_token }}|{{ eos_token }}|{{ pad_token }}|{{ cls_token is defined }}",
    "variables": "{{ tools }}{{ documents }}{{ add_generation_prompt }}{{ date_string }}",
    "items": "{% for m in messages %}{{ m.role }}:{{ m['content'] | trim }};{% endfor %}",
    "tojson": "{{ messages | tojson }}{{ messages[0] | tojson(indent=2) }}",
    "loop controls": (
        "{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}"
        "{{ m.content }}{% break %}{% endfor %}"
    ),
    "generation": (
        "{% for m in messages %}{% generation %}\n{{ m.content }}{% endgeneration %}{% endfor %}"
    ),
    "namespace": (
        "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}"
        "{% endfor %}{{ ns.n }}"
    ),
    "dict": "{{ dict(a=1, b=[2]) }}{{ dict.fromkeys('ab', 0) }}",
    "undefined": "[{{ nothing }}{{ messages[0].nothing }}]",
    "slices": (
        "{{ messages[1:] | length }}{{ messages[-1].content[::-1] }}"
        "{{ messages | map(attribute='role') | join('+') }}"
    ),
    "methods": (
        "{{ 'a-b'.split('-') }}{{ messages[0].items() | list | length }}"
        "{{ 'x'.upper() }}{{ '%s!' % 'y' }}"
    ),
    "reasoning": "{% for m in messages %}{{ m.reasoning_content }}{{ m.thinking }}{% endfor %}",
    "whitespace": "  {%- if true -%}  a  {%- endif +%}\n\n b\n",
    "macros": "{% macro f(x) %}<{{ x }}>{% endmacro %}{{ f('a') }}{{ caller is defined }}",
    "clock": "{{ strftime_now('%d %b %Y') }}",
}


def render(folder: Path, template: object, messages: object = ASK, **options) -> str:
    found = Template.find(write_folder(folder, template=template))
    return found.render(check_messages(messages), ChatOptions(**options)).text


@pytest.fixture
def tight(monkeypatch):
    """Limits that a hostile template reaches soon."""
    monkeypatch.setattr(module, "_LIMITS", sandbox.Limits(1, 30, 256 << 20, 1 << 20))
    monkeypatch.setattr(module, "MAX_CHARS", 100_000)


# Where it is found


def test_jinja_file_wins_over_config_over_json(tmp_path):
    (tmp_path / "chat_template.json").write_text('{"chat_template": "three"}')
    assert Template.find(tmp_path).text == "three"
    write_folder(tmp_path, template="two")
    assert Template.find(tmp_path).text == "two"
    (tmp_path / "chat_template.jinja").write_bytes(b"one\r\nline\rmore\n")
    found = Template.find(tmp_path)
    assert (found.text, found.path) == ("one\nline\nmore\n", tmp_path / "chat_template.jinja")


def test_named_templates_take_default(tmp_path):
    named = [{"name": "tool_use", "template": "no"}, {"name": "default", "template": "yes"}]
    assert render(tmp_path, named) == "yes"
    assert render(tmp_path, {"default": "yes", "rag": "no"}) == "yes"


@pytest.mark.parametrize(
    ("template", "fact"),
    [
        (None, "no chat template; give the prompt as text or as token ids"),
        ([{"name": "rag", "template": "x"}], "no chat template named default, only 'rag'"),
        ([1], "a list, but not of objects"),
        ([{"name": "default"}], "is a NoneType, not text"),
        (5, "is a int, not text"),
        ("x" * 300_000, "has 300000 characters; the limit is 262144"),
        ("\ud800", "lone surrogate"),
    ],
)
def test_no_usable_template(tmp_path, template, fact):
    with pytest.raises(TemplateError, match=fact) as caught:
        render(tmp_path, template)
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "data", "fact"),
    [
        ("tokenizer_config.json", b"{", "Expecting"),
        ("tokenizer_config.json", b"[]", "must be a JSON object"),
        ("tokenizer_config.json", b"\xff", "byte 0 is 0xff"),
        ("tokenizer_config.json", b"\xef\xbb\xbf{}", "byte order mark"),
        ("tokenizer_config.json", b'{"a":1,"a":2}', 'duplicate key "a"'),
        ("tokenizer_config.json", b'{"a":NaN}', "NaN"),
        ("tokenizer_config.json", b"[" * 200_000, "nested too deeply"),
        ("tokenizer_config.json", b'{"bos_token": 5}', "bos_token is 5"),
        (
            "tokenizer_config.json",
            b'{"bos_token": {"content": null, "x": 1}, "eos_token": [1]}',
            "eos_token",
        ),
        ("tokenizer_config.json", b'{"bos_token": "\\ud800"}', "bos_token"),
        ("special_tokens_map.json", b"{]", "special_tokens_map.json"),
        ("chat_template.jinja", b"a\xff", "byte 1 is 0xff"),
        ("chat_template.jinja", b"x" * 300_000, "over 262144 bytes"),
        ("tokenizer_config.json", b" " * (16 << 20) + b"{}", "over 16777216 bytes"),
    ],
)
def test_broken_files(tmp_path, name, data, fact):
    if name != "chat_template.jinja":
        (tmp_path / "chat_template.jinja").write_text("x")
    (tmp_path / name).write_bytes(data)
    with pytest.raises(TemplateError, match=fact) as caught:
        Template.find(tmp_path)
    assert "\n" not in str(caught.value)


JUNK = st.sampled_from(
    [None, True, 1, 2.5, "", "x", "\ud800", [], [[]], [{}], {}, {"name": []}, {"default": {}}]
)


@given(st.sampled_from(["chat_template", "bos_token", "added_tokens_decoder"]), JUNK, st.booleans())
@settings(deadline=None)
def test_any_value_of_another_kind(key, junk, nested_once):
    with tempfile.TemporaryDirectory() as folder:
        config = {key: [{"name": junk, "template": junk}] if nested_once else junk}
        write_folder(
            Path(folder),
            **({"template": "x"} | config if key != "chat_template" else {"template": config[key]}),
        )
        (Path(folder) / "special_tokens_map.json").write_text(json.dumps({"eos_token": junk}))
        try:
            assert isinstance(Template.find(folder).text, str)
        except TemplateError as e:
            assert str(e).isprintable()


def test_does_not_wait_for_a_fifo(tmp_path):
    os.mkfifo(tmp_path / "chat_template.jinja")
    with pytest.raises(FileError, match="not a regular file"):
        Template.find(tmp_path)
    os.unlink(tmp_path / "chat_template.jinja")
    os.mkdir(tmp_path / "chat_template.jinja")
    with pytest.raises(FileError, match="chat_template.jinja"):
        Template.find(tmp_path)


def test_special_tokens_by_name(tmp_path):
    write_folder(
        tmp_path,
        bos_token={"__type": "AddedToken", "content": "<s>", "lstrip": False},
        eos_token="</s>",
        pad_token=None,
        image_token="<image>",
    )
    assert Template.find(tmp_path).tokens == {"bos_token": "<s>", "eos_token": "</s>"}
    older = {"eos_token": {"content": "<end>", "lstrip": False}, "pad_token": "<pad>"}
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(older))
    assert Template.find(tmp_path).tokens == {
        "bos_token": "<s>",
        "eos_token": "<end>",
        "pad_token": "<pad>",
    }
    write_folder(tmp_path, eos_token="</s>", added_tokens_decoder={})
    assert Template.find(tmp_path).tokens == {"bos_token": "<|bos|>", "eos_token": "</s>"}


# What it renders


@pytest.mark.parametrize("name", FEATURES)
def test_child_and_caller_render_alike(tmp_path, name):
    write_folder(tmp_path, template=FEATURES[name], pad_token="<pad>")
    found = Template.find(tmp_path)
    assert not found.known
    ours = Template(found.path, found.text, found.tokens, known=True)
    traced = found.render(check_messages(TALK), traced=True)
    assert traced == ours.render(check_messages(TALK), traced=True)
    assert traced.text == found.render(check_messages(TALK)).text


@pytest.mark.parametrize("prompt", [True, False])
@pytest.mark.parametrize("name", FEATURES)
def test_renders_as_transformers(tmp_path, name, prompt):
    utils = pytest.importorskip(
        "transformers.utils.chat_template_utils", reason="needs transformers: pip install -e '.[truth]'"
    )
    found = Template.find(write_folder(tmp_path, template=FEATURES[name], pad_token="<pad>"))
    theirs, _ = utils.render_jinja_template(
        conversations=[TALK],
        chat_template=FEATURES[name],
        add_generation_prompt=prompt,
        **found.tokens,
    )
    today = {"date": "today"} if name == "clock" else {}
    options = ChatOptions(add_generation_prompt=prompt, **today)
    ours = found.render(check_messages(TALK), options, traced=True)
    assert ours.text == theirs[0]
    assert ours.origin is not None


def test_known_templates_stay_in_this_process(tmp_path, monkeypatch):
    smol = (
        "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
        "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, "
        "trained by Hugging Face<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + "
        "'\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )

    def no_child(*args, **kwargs):
        raise AssertionError("started a child")

    monkeypatch.setattr(sandbox, "call", no_child)
    assert render(tmp_path, smol).endswith("user\nHi<|im_end|>\n<|im_start|>assistant\n")
    with pytest.raises(AssertionError, match="started a child"):
        render(tmp_path, smol + " ")
    monkeypatch.setattr(module, "_DEMO", tmp_path)
    assert render(tmp_path, "the demo's own") == "the demo's own"


def test_messages_are_not_changed(tmp_path):
    messages = [{"role": "user", "content": "a", "name": None}]
    assert (
        render(tmp_path, "{{ messages[0] | tojson }}", messages)
        == '{"role": "user", "content": "a"}'
    )
    assert messages == [{"role": "user", "content": "a", "name": None}]


def test_child_needs_neither_environment_nor_folder(tmp_path, monkeypatch):
    for name in ("json.py", "jinja2.py", "contextlib.py", "sitecustomize.py"):
        (tmp_path / name).write_text("raise SystemExit(7)")
    folder = write_folder(tmp_path / "model", template="{{ 1 + 1 }}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("PYTHONSTARTUP", str(tmp_path / "json.py"))
    assert Template.find(folder).render(check_messages(ASK)).text == "2"


# The date


def test_date_is_pinned(tmp_path):
    clock = "{{ strftime_now('%d %b %Y') }} {{ date_string }}"
    assert render(tmp_path, clock) == "26 Jul 2024 "
    assert render(tmp_path, clock, date="2025-01-02") == "02 Jan 2025 02 Jan 2025"
    assert render(tmp_path, clock, date=datetime.date(1999, 12, 31)).startswith("31 Dec 1999")
    today = datetime.date.today().isoformat()
    rendered = render(tmp_path, "{{ strftime_now('%Y-%m-%d') }}", date="today")
    assert rendered in (today, datetime.date.today().isoformat())


def test_accepts_dates():
    assert pin_date(None) == datetime.date(2024, 7, 26)
    assert pin_date("2024-02-29") == datetime.date(2024, 2, 29)
    assert pin_date(datetime.datetime(2024, 1, 2, 23, 59)) == datetime.date(2024, 1, 2)
    for wrong in ("2023-02-29", "yesterday", "", 20240101, b"today", ("2024",)):
        with pytest.raises(ArgumentError, match="YYYY-MM-DD"):
            pin_date(wrong)


@pytest.mark.parametrize("letter", "aAbBcdDeFgGhHIjmMnprRStTuUVwWxXyYzZ%")
def test_strftime_matches_the_c_locale(letter):
    code = (
        "import datetime, sys\n"
        "days = [datetime.datetime(2024, 1, 1) + datetime.timedelta(17 * i) for i in range(40)]\n"
        "print([d.strftime(sys.argv[1]) for d in days])"
    )
    format = f"%{letter}|%%{letter}"
    out = subprocess.run(
        [sys.executable, "-c", code, format],
        env={"LC_ALL": "C", "TZ": "UTC"},
        capture_output=True,
        check=True,
        text=True,
    ).stdout
    days = [datetime.date(2024, 1, 1) + datetime.timedelta(17 * i) for i in range(40)]
    assert [_render._strftime(day, format) for day in days] == ast.literal_eval(out)


# What the sandbox denies

HOSTILE = {
    "nested loops": (
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "1 s of processor time",
    ),
    "endless recursion": ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "nested too deeply"),
    "huge text": ("{{ 'x' * 2000000000 }}", "256 MiB of memory"),
    "huge padding": ("{{ '%1000000000s' % 'x' }}", "256 MiB of memory"),
    "doubling": (
        "{% set n = namespace(s='x') %}{% for i in range(99) %}{% set n.s = n.s * 2 %}{% endfor %}",
        "256 MiB of memory",
    ),
    "huge number": ("{{ 9 ** (9 ** 9) }}", "processor time|integer|memory"),
    "long output": ("{{ 'x' * 200000 }}", "over 100000 characters"),
    "long drip": ("{% for i in range(99999) %}ab{% endfor %}", "over 100000 characters"),
    "class walk": ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "__class__.*unsafe"),
    "globals walk": ("{{ cycler.__init__.__globals__.os.system('id') }}", "unsafe"),
    "function globals": ("{{ raise_exception.__globals__.os }}", "unsafe"),
    "format walk": ("{{ '{0.__class__.__mro__}'.format('') }}", "unsafe"),
    "attr filter": ("{{ ('' | attr('__class__')).mro() }}", "unsafe|undefined"),
    "dict class": ("{{ dict.__class__.__bases__ }}", "unsafe"),
    "namespace dunder": ("{% set n = namespace(__class__=1) %}", "underscore"),
    "namespace dunder set": (
        "{% set n = namespace(a=1) %}{% set n['__x'] = 1 %}",
        "template failed",
    ),
    "mutation": ("{{ messages.append(1) }}", "unsafe"),
    "dict mutation": ("{{ messages[0].update(role='x') }}", "unsafe"),
    "include": ("{% include '/etc/passwd' %}", "no loader"),
    "import": ("{% import 'os' as os %}", "no loader"),
    "extends": ("{% extends 'x' %}", "no loader"),
    "syntax": ("a\n{% for %}", "line 2: "),
    "unclosed": ("{{ 'a", "line 1: "),
    "undefined call": ("{{ nothing() }}", "'nothing' is undefined"),
    "undefined attribute": ("{{ nothing.at.all }}", "'nothing' is undefined"),
    "undefined method": ("{{ messages.shuffle() }}", "has no attribute 'shuffle'"),
    "unknown filter": ("{{ 1 | nothing }}", "No filter named 'nothing'"),
    "type error": ("{{ 'a' + 1 }}", "TypeError"),
    "division": ("{{ 1 / 0 }}", "ZeroDivisionError"),
    "deep brackets": ("{{ " + "(" * 9000 + "1" + ")" * 9000 + " }}", "template failed"),
    "deep blocks": ("{% if 1 %}" * 3000 + "{% endif %}" * 3000, "template failed"),
    "own words": (
        "{{ raise_exception('Roles must\n\talternate\x1b[31m ' + messages[0].content) }}",
        r"Roles must\\x0a",
    ),
    "own object": ("{{ raise_exception({'a': 1}) }}", "{'a': 1}"),
    "no words": ("{{ raise_exception('') }}", "TemplateError"),
    "long words": ("{{ raise_exception('x' * 10000) }}", r"xxx\.\.\."),
    "surrogate": ("{{ '\\ud800' }}", "lone surrogate"),
    "surrogate format": ("{{ strftime_now('\\ud800') }}", "template failed|surrogate"),
    "lipsum": ("{{ lipsum(n=1000000) }}", "processor time|memory|characters"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_template(tmp_path, tight, name):
    template, fact = HOSTILE[name]
    with pytest.raises(TemplateError, match=fact) as caught:
        render(tmp_path, template)
    message = str(caught.value)
    assert message.isprintable() and len(message) < 600
    assert message.startswith(str(tmp_path / "tokenizer_config.json"))


def test_sandbox_holds_in_this_process_too(tmp_path):
    for name in (
        "class walk",
        "format walk",
        "mutation",
        "syntax",
        "type error",
        "own words",
        "include",
    ):
        template, fact = HOSTILE[name]
        ours = Template(tmp_path, template, {}, known=True)
        with pytest.raises(TemplateError, match=fact):
            ours.render(check_messages(ASK))


def test_ctrl_c_passes_and_leaves_no_child(tmp_path, monkeypatch):
    if threading.current_thread() is not threading.main_thread():
        pytest.skip("signals arrive in the main thread")
    children = []

    class Popen(subprocess.Popen):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            children.append(self.pid)
            threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()

    found = Template.find(write_folder(tmp_path, template=HOSTILE["nested loops"][0]))
    monkeypatch.setattr(subprocess, "Popen", Popen)
    with pytest.raises(KeyboardInterrupt):
        found.render(check_messages(ASK))
    with pytest.raises(ProcessLookupError):
        os.kill(children[0], 0)


# The messages


def nested(depth: int) -> object:
    value: object = "x"
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("messages", "fact"),
    [
        ([], "at least one dict"),
        ("text", "at least one dict"),
        (None, "at least one dict"),
        (["text"], "message 0: give a dict with a role"),
        ([{"content": "x"}], "message 0: give a dict with a role"),
        ([{"role": 5, "content": "x"}], "message 0: give a dict with a role"),
        (
            [*ASK, {"role": "user", "contents": "x"}],
            "message 1: it has no content; its keys are 'role, contents'",
        ),
        ([{"role": "user", "content": None}], "no content"),
        ([{"role": "user", "content": b"x"}], "a bytes is not a JSON value"),
        ([{"role": "user", "content": {1, 2}}], "a set is not a JSON value"),
        ([{"role": "user", "content": object}], "a type is not a JSON value"),
        ([{"role": "user", "content": float("nan")}], "a float is not a JSON value"),
        ([{"role": "user", "content": 2**63}], "an integer over 64 bits"),
        ([{"role": "user", "content": "\ud800"}], "lone surrogate"),
        ([{"role": "\udfff", "content": "x"}], "lone surrogate"),
        ([{"role": "user", "content": "x", "\ud800": 1}], "lone surrogate"),
        ([{"role": "user", "content": "x", 5: 1}], "the key 5 is not text"),
        ([{"role": "user", "content": nested(40)}], "more than 32 deep"),
        ([{"role": "user", "content": "x" * (1 << 22)}], "over 4194304 characters"),
        ([{"role": "user", "content": ["x"] * (1 << 20)}], "over 4194304 characters"),
    ],
)
def test_bad_messages(messages, fact):
    with pytest.raises(ArgumentError, match=fact):
        check_messages(messages)


def test_rejects_messages_that_contain_themselves():
    loop: list = []
    loop.append(loop)
    wide: object = "x"
    for _ in range(30):
        wide = [wide] * 10
    for content in (loop, wide):
        with pytest.raises(ArgumentError, match="deep|characters"):
            check_messages([{"role": "user", "content": content}])


def test_messages_become_plain_data():
    class Text(str):
        def __str__(self):
            return "other"

    parts = ({"type": "text", "text": Text("a")}, 1, 2.5, True, None)
    copy = check_messages(({"role": Text("user"), "content": parts, "name": None},))
    assert copy == [
        {"role": "user", "content": [{"type": "text", "text": "a"}, 1, 2.5, True, None]}
    ]
    assert type(copy[0]["role"]) is str and type(copy[0]["content"][0]["text"]) is str
    assert check_messages([{"role": "assistant", "tool_calls": []}])
