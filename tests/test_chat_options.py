"""What a template is given besides messages, and many chats at once."""

import re
from pathlib import Path

import pytest
from chats import spelled_out, theirs, tokenizer_of
from small_tokenizer import BOS, END_HEAD, EOT, HEAD, byte_level, write_folder

import llamaprobe
from llamaprobe import ArgumentError, TemplateError
from llamaprobe.prompts import _render
from llamaprobe.prompts import template as module
from llamaprobe.prompts.chat import ChatOptions, check_messages
from llamaprobe.prompts.template import Template
from llamaprobe.prompts.tokenizer import Tokenizer

HEADS = [BOS, HEAD, *b"user", END_HEAD]
HI = [{"role": "user", "content": "Hi"}]
TOOL = {"type": "function", "function": {"name": "f<|eot|>", "parameters": {}}}
WITH_ALL = (
    "{{ bos_token }}{% for m in messages %}<|head|>{{ m.role }}<|/head|>"
    "{{ m.content | trim }}<|eot|>{% endfor %}{% if tools %}{{ tools | tojson }}{% endif %}{{ documents }}"
    "{% if add_generation_prompt %}<|head|>{{ who | default('bot') }}<|/head|>{% endif %}"
)
ANSWERED = [
    {"role": "user", "content": "ab"},
    {"role": "bot", "content": " Sure, <|eot|> ", "reasoning": "th"},
]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"template_vars": {"who": "<|eot|>me"}},
        {"template_vars": {"documents": [{"title": "a", "text": "b"}], "other": None}},
        {"tools": [TOOL]},
        {"tools": []},
        {"continue_final_message": True},
        {"continue_final_message": True, "tools": [TOOL], "template_vars": {"who": "x"}},
        {"add_generation_prompt": False},
        {"continue_final_message": True, "add_generation_prompt": False},
    ],
)
def test_arguments_are_those_of_transformers(options):
    how = dict(options)
    prompt = how.pop("add_generation_prompt", "continue_final_message" not in how)
    how |= how.pop("template_vars", {})
    expected = theirs(WITH_ALL, ANSWERED, add_generation_prompt=prompt, **how)
    for here in (True, False):
        tokenizer = tokenizer_of(WITH_ALL, here=here)
        chat = tokenizer.chat(ANSWERED, **options)
        assert chat.text == expected
        assert spelled_out(tokenizer, chat.ids.tolist()) == expected
        own = WITH_ALL.count("<|eot|>") and 2 - bool(options.get("continue_final_message"))
        assert chat.ids.tolist().count(EOT) == own
        assert chat.inputs == {k: v for k, v in options.items() if k != "add_generation_prompt"}


CONTINUED = [
    ("{% for m in messages %}[{{ m.content }}]{% endfor %}", "plain"),
    ("{% for m in messages %}[{{ m.content | trim }}]{% endfor %}", "trimmed"),
    ("{{ messages[-1]['content'] + '<|eot|>' }}", "the last"),
    ("{% for m in messages %}{% if m.reasoning_content %}<{{ m.reasoning_content }}>{% endif %}"
     "{{ m.content }}|{% endfor %}", "reasoning"),
    ("{% for m in messages %}{{ m.thinking }}{{ m.content }}|{% endfor %}", "thinking"),
    (
        "{% for m in messages %}{% for p in m.content %}{{ p.text }};{% endfor %}{% endfor %}",
        "parts",
    ),
    ("{{ messages[0].content }}", "not there"),
    ("nothing", "nothing"),
    ("{{ messages[-1].content | upper }}", "changed"),
    ("{{ messages[-1].content[:2] }}", "cut"),
]
FINAL = [
    {"role": "bot", "content": "Sure,"},
    {"role": "bot", "content": " Sure, \n"},
    {"role": "bot", "content": ""},
    {"role": "bot", "content": "CONTINUE_FINAL_MESSAGE_TAG x"},
    {"role": "bot", "content": "a", "reasoning": "because "},
    {"role": "bot", "content": "a", "thinking": "x", "reasoning_content": "x"},
    {"role": "bot", "content": [{"type": "text", "text": "a "}, {"type": "text", "text": "b "}]},
    {"role": "bot", "content": [{"type": "image"}]},
    {"role": "bot", "content": "a", "tool_calls": []},
]


@pytest.mark.parametrize("field", [True, "content", "reasoning_content", "thinking", "tool_calls"])
@pytest.mark.parametrize(("template", "name"), CONTINUED)
def test_the_last_message_is_continued_as_by_transformers(template, name, field):
    tokenizer = tokenizer_of(template)
    for last in FINAL:
        messages = [{"role": "user", "content": "Hi"}, last]
        try:
            expected = theirs(template, messages, continue_final_message=field)
        except Exception:
            with pytest.raises((ArgumentError, TemplateError)) as caught:
                tokenizer.chat(messages, continue_final_message=field)
            assert str(caught.value).isprintable()
        else:
            assert tokenizer.chat(messages, continue_final_message=field).text == expected, last


@pytest.mark.parametrize(
    ("options", "fact"),
    [
        ({"continue_final_message": True, "add_generation_prompt": True}, "give one of the two"),
        ({"continue_final_message": 5}, "continue_final_message is 5"),
        ({"continue_final_message": ""}, "continue_final_message is ''"),
        ({"continue_final_message": "nothing"}, "the last message has no 'nothing'"),
        ({"tools": {}}, "tools is a list of JSON schemas, not dict"),
        ({"tools": [print]}, "tool 0: a Python function; give its JSON schema"),
        ({"tools": [TOOL, "f"]}, "tool 1: a str"),
        ({"tools": [{"a": float("nan")}]}, "tool 0: a float is not a JSON value"),
        ({"template_vars": []}, "template_vars is a dict of names and values, not list"),
        ({"template_vars": {"a b": 1}}, "'a b' is not a name"),
        ({"template_vars": {5: 1}}, "5 is not a name"),
        ({"template_vars": {"messages": []}}, "messages is an argument here; leave it out"),
        ({"template_vars": {"tools": []}}, "tools is an argument here"),
        ({"template_vars": {"bos_token": ""}}, "bos_token is the model's own"),
        ({"template_vars": {"pad_token": ""}}, "pad_token is the model's own"),
        ({"template_vars": {"strftime_now": ""}}, "is a function of templates"),
        (
            {"template_vars": {"date_string": "x"}, "date": "today"},
            "date_string is set by date",
        ),
        ({"template_vars": {"a": object()}}, "template_vars a: a object is not a JSON value"),
        ({"template_vars": {"a": "\ud800"}}, "lone surrogate"),
    ],
)
def test_rejects_bad_arguments(options, fact):
    with pytest.raises(ArgumentError, match=re.escape(fact)):
        tokenizer_of(WITH_ALL).chat(ANSWERED, **options)


def test_a_date_string_may_be_given_alone():
    chat = tokenizer_of("{{ date_string }}").chat(
        ANSWERED, template_vars={"date_string": "03 Feb 2025"}
    )
    assert chat.text == "03 Feb 2025"


def test_tools_have_a_template_of_their_own(tmp_path):
    named = [{"name": n, "template": n} for n in ("default", "tool_use")]
    tokenizer = tokenizer_of(named)
    assert tokenizer.chat(ANSWERED).text == "default"
    assert tokenizer.chat(ANSWERED, tools=[]).text == "tool_use"
    assert tokenizer_of("one").chat(ANSWERED, tools=[TOOL]).text == "one"
    (tokenizer.folder / "chat_template.jinja").write_text("file")
    (tokenizer.folder / "additional_chat_templates").mkdir()
    (tokenizer.folder / "additional_chat_templates" / "tool_use.jinja").write_text("with tools")
    tokenizer = Tokenizer.open(tokenizer.folder)
    assert tokenizer.chat(ANSWERED).text == "file"
    assert tokenizer.chat(ANSWERED, tools=[TOOL]).text == "with tools"


def test_a_run_records_the_inputs_of_the_template(random_checkpoint, tmp_path):
    folder = random_checkpoint(vocab_size=265)
    write_folder(folder, byte_level(), template=WITH_ALL)
    model = llamaprobe.load(folder)
    variables, tools = {"who": "me", "list": [1]}, [{"name": "f"}]
    run = model.run(ANSWERED, template_vars=variables, tools=tools, continue_final_message=True)
    variables["list"].append(2)
    tools[0]["name"] = "g"
    given = {
        "template_vars": {"who": "me", "list": [1]},
        "tools": [{"name": "f"}],
        "continue_final_message": True,
    }
    assert run.template_inputs == given
    run.save(tmp_path / "run", format="npy")
    back = llamaprobe.read_run(tmp_path / "run")
    assert back.template_inputs == given
    assert {key: back.meta[key] for key in given} == {key: run.meta[key] for key in given} == given
    assert not given.keys() & model.run(ANSWERED).meta.keys()
    assert not given.keys() & model.run("ab").meta.keys()
    for name in given:
        with pytest.raises(ArgumentError, match=f"{name} is for chat messages"):
            model.run("ab", **{name: given[name]})


# Many chats


def test_a_batch_has_one_child_for_each_file(random_checkpoint, monkeypatch):
    """Also when the tokenizer is opened by it."""
    folder = random_checkpoint(vocab_size=265)
    spec = byte_level()
    spec["pre_tokenizer"]["pretokenizers"].insert(
        0,
        {"type": "Split", "pattern": {"Regex": "[\n\r]"}, "behavior": "Isolated", "invert": False},
    )
    write_folder(folder, spec)
    started = []
    start = module.sandbox.Worker._start
    monkeypatch.setattr(
        module.sandbox.Worker, "_start", lambda self: started.append(self._script) or start(self)
    )
    model = llamaprobe.load(folder)
    chats = [[{"role": "user", "content": f"ab{i}<|eot|>"}] for i in range(10)]
    runs = model.run([*chats, "ab", "th"], points="x")
    assert sorted(started) == ["_encode.py", "_render.py"]
    ids = [*HEADS, 256, *b"3<|eot|>", EOT, HEAD, *b"assistant", END_HEAD]
    assert runs[3].token_ids.tolist() == ids
    assert runs[-1].token_ids.tolist() == [BOS, 258]
    model.run("ab", points="x")
    assert len(started) == 3


@pytest.mark.slow
def test_a_prompt_over_its_limits_leaves_the_others_to_be_read(monkeypatch):
    monkeypatch.setattr(module, "_LIMITS", module.sandbox.Limits(1, 30, 256 << 20, 1 << 20))
    template = (
        "{% if messages[0].content == 'loop' %}"
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
        "{% elif messages[0].content == 'eat' %}{{ 'x' * 2000000000 }}"
        "{% endif %}{{ messages[0].content }}"
    )
    with tokenizer_of(template, here=False).batch() as tokenizer:
        loop, eat = ("loop", "1 s of processor time"), ("eat", "256 MiB")
        for content, fact in [("a", None), loop, ("b", None), eat, ("c", None)]:
            if fact is None:
                assert tokenizer.chat([{"role": "u", "content": content}]).text == content
            else:
                with pytest.raises(TemplateError, match=fact):
                    tokenizer.chat([{"role": "u", "content": content}])


def test_no_state_leaks_between_chats():
    template = (
        "{% set n = namespace(seen=0) %}{% set n.seen = n.seen + 1 %}{{ n.seen }}"
        "{% if kept is defined %}kept{% endif %}{% set kept = 1 %}{{ strftime_now('%Y') }}"
    )
    for here in (True, False):
        with tokenizer_of(template, here=here).batch() as tokenizer:
            for year in (2001, 2002, 2001):
                assert tokenizer.chat(HI, date=f"{year}-01-01").text == f"1{year}"
    known = Template(Path("x"), template, {}, known=True)
    for year in (2001, 2002):
        text = known.render(check_messages(HI), ChatOptions(f"{year}-01-01")).text
        assert text == f"1{year}"


def test_a_template_is_compiled_once(monkeypatch):
    compiled = []
    environment = _render._environment
    monkeypatch.setattr(
        _render, "_environment", lambda **how: compiled.append(how) or environment(**how)
    )
    known = Template(Path("x"), WITH_ALL, {"bos_token": "<|bos|>"}, known=True)
    for _ in range(5):
        known.render(check_messages(ANSWERED))
    assert compiled == [{}]
    for _ in range(5):
        known.render(check_messages(ANSWERED), traced=True)
    assert compiled == [{}, {"traced": True}]


@pytest.mark.parametrize(
    ("data", "fact"),
    [
        (b"\n<html><head><title>\xe9</title>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 5\n", "Git LFS pointer"),
        (b"<!DOCTYPE html>\n<html><body>Sign in</body></html>", "is a web page"),
    ],
)
def test_other_files_in_place_of_a_template_are_not_rendered(tmp_path, data, fact):
    write_folder(tmp_path)
    (tmp_path / "chat_template.jinja").write_bytes(data)
    with pytest.raises(TemplateError, match=f"chat_template.jinja: is a .*{fact[5:]}"):
        Template.find(tmp_path)
    write_folder(tmp_path / "b", template=data.decode("latin-1"))
    with pytest.raises(TemplateError, match=f"tokenizer_config.json: is a .*{fact[5:]}"):
        Template.find(tmp_path / "b")
