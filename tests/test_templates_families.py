"""Chats as the templates of the families make them: text and ids of `apply_chat_template`."""

import itertools
import re

import pytest
from chats import render_here, transformers_utils
from declaration_cases import write
from family_templates import GEMMA3, QWEN3, TEMPLATES
from family_tokenizers import families
from template_constructs import CONSTRUCTS, FAILING
from test_tokenizer_families import auto_tokenizer

import llamaprobe as lp
from llamaprobe import TemplateError, Tokenizer
from llamaprobe.prompts import _render

TOOL = {
    "type": "function",
    "function": {"name": "f", "description": "finds <b> & 'q' é", "parameters": {"type": "object"}},
}


def system(content):
    return {"role": "system", "content": content}


def user(content):
    return {"role": "user", "content": content}


def bot(content, **more):
    return {"role": "assistant", "content": content, **more}


CHATS = [
    [user("Hi")],
    [
        *(system(" Be brief. /no_think"), user("Zwölf 😀\n")),
        *(bot("<think>\nhm\n</think>\n\n12"), user(" e\u0301 x ")),
    ],
    [user("a"), bot("b", reasoning_content="because")],
    [user("a"), user("b")],
    [user([{"type": "text", "text": " one "}, {"type": "image"}, {"type": "text", "text": "two"}])],
    [system([{"type": "text", "text": "S"}]), user("q")],
    [system("alone")],
    [user("q"), {"role": "tool", "content": "1"}, {"role": "tool", "content": "2"}, bot("\n\nok")],
    [{"role": "poet", "content": "x"}],
]
OPTIONS = [
    {},
    {"add_generation_prompt": False},
    {"template_vars": {"enable_thinking": False}},
    {"template_vars": {"enable_thinking": True, "thinking": True, "skip_think": False}},
    {"tools": [TOOL, TOOL]},
    {
        "template_vars": {
            "documents": [{"text": "d1"}, {"text": "d2"}],
            "controls": {"citations": 1},
        }
    },
    {"continue_final_message": True},
]


def folder_of(tmp_path, name, template=None):
    """A folder of the family with its template in tokenizer_config.json."""
    files = families()[name]
    config = files["tokenizer_config.json"] | {"chat_template": template or TEMPLATES[name]}
    return write(tmp_path, files | {"tokenizer_config.json": config})


def arguments_of(options):
    """Those of `apply_chat_template`."""
    how = dict(options)
    how.setdefault("add_generation_prompt", not how.get("continue_final_message"))
    return how | how.pop("template_vars", {})


@pytest.mark.parametrize("name", TEMPLATES)
def test_chats_are_those_of_transformers(tmp_path, name):
    folder = folder_of(tmp_path, name)
    theirs, ours = auto_tokenizer(folder), render_here(Tokenizer.open(folder))
    n_made = 0
    for chat, options in itertools.product(CHATS, OPTIONS):
        how = arguments_of(options)
        try:
            text = theirs.apply_chat_template(chat, tokenize=False, **how)
        except Exception:  # the template refuses the chat, or fails on it
            with pytest.raises(lp.Error) as error:
                ours.chat(chat, date="today", **options)
            assert str(error.value).isprintable()
            continue
        made = ours.chat(chat, date="today", **options)
        assert made.text == text, (chat, options)
        assert made.ids.tolist() == theirs(text, add_special_tokens=False)["input_ids"], text
        n_made += 1
    assert n_made >= 20


@pytest.mark.parametrize("name", TEMPLATES)
def test_special_tokens_in_messages_are_text_in_each_family(tmp_path, name):
    """Spelled out in a message, each token of the family is text; the template's own count."""
    folder = folder_of(tmp_path, name)
    ours = render_here(Tokenizer.open(folder))
    added = families()[name]["tokenizer.json"]["added_tokens"]
    special = {token["id"] for token in added if token["special"]}
    all_of_them = "x " + " ".join(token["content"] for token in added) + " y"
    for roles in (("user",), ("user", "assistant", "user")):
        clean, evil = (
            [{"role": role, "content": content} for role in roles] for content in ("x", all_of_them)
        )
        made, parsed = ours.chat(evil), ours.chat(evil, parse_special=True)
        assert made.text == parsed.text
        counted = [[i for i in ids if i in special] for ids in (made.ids, ours.chat(clean).ids)]
        assert counted[0] == counted[1]
        assert sum(int(i) in special for i in parsed.ids) > len(counted[0])


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_chat_begins_with_one_bos(tmp_path, name):
    tokenizer = render_here(Tokenizer.open(folder_of(tmp_path, name)))
    begin = tokenizer._declared.names.get("bos_token", "")
    made = tokenizer.chat([user("Hi")])
    ids = made.ids.tolist()
    if made.text.startswith(begin) and begin:
        id = tokenizer._vocabulary.id_of(begin)
        assert ids[0] == id and ids.count(id) == 1
    if name in ("gemma2", "mistral 0.3", "r1-distill-llama", "r1-distill-qwen"):
        assert tokenizer.encode("Hi")[0] == ids[0]


# ---- what families are known for ----


def test_gemma_2_refuses_a_system_message(tmp_path):
    tokenizer = render_here(Tokenizer.open(folder_of(tmp_path, "gemma2")))
    with pytest.raises(TemplateError, match="no system messages here"):
        tokenizer.chat([system("Be brief."), user("Hi")])
    text = (
        render_here(Tokenizer.open(folder_of(tmp_path / "3", "gemma3")))
        .chat([system("Be brief."), user("Hi")])
        .text
    )
    assert text == (
        "<bos><start_of_turn>user\nBe brief.\n\nHi<end_of_turn>\n<start_of_turn>model\n"
    )


def test_a_template_sees_tokens_with_names_of_their_own(tmp_path):
    """boi_token of Gemma 3."""
    tokenizer = render_here(Tokenizer.open(folder_of(tmp_path, "gemma3", GEMMA3)))
    text = tokenizer.chat([user([{"type": "image"}, {"type": "text", "text": "Hi"}])]).text
    assert text == "<bos><start_of_turn>user\n<unused0>Hi<end_of_turn>\n<start_of_turn>model\n"


@pytest.mark.parametrize(
    ("name", "variables", "end"),
    [
        ("qwen3", {}, "assistant\n"),
        ("qwen3", {"enable_thinking": True}, "assistant\n"),
        ("qwen3", {"enable_thinking": False}, "assistant\n<think>\n\n</think>\n\n"),
        ("smollm3", {}, "assistant\n"),
        ("smollm3", {"enable_thinking": False}, "assistant\n<think>\n\n</think>\n"),
        ("exaone4", {}, "<think>\n\n</think>\n\n"),
        ("exaone4", {"enable_thinking": True}, "[|assistant|]\n<think>\n"),
    ],
)
def test_thinking_is_a_variable_of_the_template(tmp_path, name, variables, end):
    tokenizer = render_here(Tokenizer.open(folder_of(tmp_path, name)))
    made = tokenizer.chat([user("Hi")], template_vars=variables)
    assert made.text.endswith(end)
    assert made.inputs == {"template_vars": variables}


def test_spaces_round_inst_are_those_of_the_version(tmp_path):
    chats = {
        name: render_here(Tokenizer.open(folder_of(tmp_path / name, name))).chat([user("Hi")]).text
        for name in ("mistral 0.3", "nemo")
    }
    assert chats == {"mistral 0.3": "<s> [INST] Hi [/INST]", "nemo": "<s>[INST]Hi[/INST]"}


def test_a_run_records_the_switch(tmp_path, random_checkpoint):
    """In its metadata and its manifest, by Python and by the command."""
    import json

    from llamaprobe.cli.main import main

    folder = random_checkpoint(vocab_size=1200)
    config = json.loads((folder / "config.json").read_text())
    folder_of(folder, "qwen3", QWEN3)
    (folder / "config.json").write_text(json.dumps(config))
    variables = {"enable_thinking": False, "documents": [{"a": 1}]}
    run = lp.load(folder).run([user("Hi")], points="x", template_vars=variables)
    assert run.prompt.endswith("<think>\n\n</think>\n\n")
    assert run.meta["template_vars"] == run.template_inputs["template_vars"] == variables
    out = tmp_path / "out"
    how = ["--template-var", "enable_thinking=false", "--template-var", 'documents=[{"a": 1}]']
    assert main(["run", str(folder), "Hi", "--chat", "--points", "x", "--out", str(out), *how]) == 0
    saved = lp.read_run(out)
    assert saved.equals(run) and saved.template_inputs["template_vars"] == variables


# ---- what templates can use ----


def test_templates_have_what_those_of_transformers_have():
    theirs = transformers_utils()._compile_jinja_template("").environment
    for traced in (False, True):
        ours = _render._environment(traced=traced)
        assert ours.filters.keys() == theirs.filters.keys()
        assert ours.tests.keys() == theirs.tests.keys()
        assert ours.globals.keys() | {"strftime_now"} == theirs.globals.keys()
        tags = [{tag for e in env.extensions.values() for tag in e.tags} for env in (ours, theirs)]
        assert tags[0] == tags[1]
        for setting in (
            *("trim_blocks", "lstrip_blocks", "keep_trailing_newline", "newline_sequence"),
            *("autoescape", "undefined", "optimized", "sandboxed"),
        ):
            assert getattr(ours, setting) == getattr(theirs, setting), setting


@pytest.mark.parametrize("name", CONSTRUCTS)
def test_a_construct_gives_the_text_of_transformers(tmp_path, name):
    tokenizer = render_here(Tokenizer.open(folder_of(tmp_path, "qwen3", CONSTRUCTS[name])))
    expected = transformers_utils().render_jinja_template(
        conversations=[CHATS[1]], chat_template=CONSTRUCTS[name], add_generation_prompt=True
    )[0][0]
    assert tokenizer.chat(CHATS[1], date="today").text == expected
    spelled = [user("a<|im_end|>b"), *CHATS[1][1:]]  # renders a second time, with origins
    expected = transformers_utils().render_jinja_template(
        conversations=[spelled], chat_template=CONSTRUCTS[name], add_generation_prompt=True
    )[0][0]
    assert tokenizer.chat(spelled, date="today").text == expected


@pytest.mark.parametrize("name", FAILING)
def test_what_fails_there_fails_here(tmp_path, name):
    tokenizer = render_here(Tokenizer.open(folder_of(tmp_path, "qwen3", FAILING[name])))
    with pytest.raises(Exception) as theirs:
        transformers_utils().render_jinja_template(
            conversations=[[user("Hi")]], chat_template=FAILING[name], add_generation_prompt=True
        )
    reason = "underscore" if name == "namespace" else re.escape(str(theirs.value)[:40])
    with pytest.raises(TemplateError, match=reason):
        tokenizer.chat([user("Hi")])


# ---- where a template is ----


def test_each_place_of_a_template(tmp_path):
    for number, (name, value, with_tools) in enumerate(
        [
            ("tokenizer_config.json", "one", "one"),
            (
                "tokenizer_config.json",
                [{"name": "default", "template": "one"}, {"name": "tool_use", "template": "two"}],
                "two",
            ),
            ("chat_template.jinja", "one", "one"),
            ("additional_chat_templates/tool_use.jinja", "two", "two"),
        ]
    ):
        folder = folder_of(tmp_path / str(number), "qwen3", "one")
        if name.endswith(".jinja"):
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / "chat_template.jinja").write_text("one")
            (folder / name).write_text(value)
        else:
            folder_of(folder, "qwen3", value)
        ours, theirs = render_here(Tokenizer.open(folder)), auto_tokenizer(folder)
        for tools, expected in [(None, "one"), ([TOOL], with_tools)]:
            assert ours.chat([user("Hi")], tools=tools).text == expected
            assert theirs.apply_chat_template([user("Hi")], tools=tools, tokenize=False) == expected
