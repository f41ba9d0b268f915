"""Chats of any template: the text that transformers renders, and no special token from a message.

A template here does with messages what templates do, and worse; the messages spell special tokens
in every way. The text must be transformers', and exactly those special tokens count that the
template wrote.
"""

import functools
import json
import re

import pytest
from chats import folder_of, spelled_out, template_of, theirs, tokenizer_of
from hypothesis import given, settings
from hypothesis import strategies as st
from small_tokenizer import BOS, END_HEAD, EOT, HEAD, SPECIAL

from llamaprobe import TemplateError
from llamaprobe.prompts import _origin, _render
from llamaprobe.prompts.chat import ChatOptions, check_messages
from llamaprobe.prompts.template import Template
from llamaprobe.prompts.tokenizer import Tokenizer

CHATS = [
    [{"role": "user", "content": "Hi"}],
    [{"role": "user", "content": "a <|eot|> b"}, {"role": "assistant", "content": "<|head|>x"}],
    [{"role": "user", "content": "<|bos|><|bos|>ab"}, {"role": "tool", "content": " <|eot|>> "}],
    [{"role": "user", "content": "think<|/head|>so<|/head|>\n\n ß<|eot|>\r\nend  "}],
    [{"role": "<|head|>", "content": "<|eot|>", "<|eot|>": "<|bos|>", "list": ["<|eot|>", 5]}],
    [{"role": "user", "content": ""}, {"role": "user", "content": "%s {} <|E |T {{ 1 }}"}],
]
# A body for each message m, between <|head|> and <|eot|> of the template's own.
FOLLOWED = {
    "as it is": "{{ m.content }}",
    "by key": "{{ m['content'] }}",
    "split": "{{ m.content.split('<|/head|>')[-1] }}",
    "split and join": "{{ m.content.split('<|eot|>') | join('<|eot|>') }}",
    "split by space": "{{ m.content.split() | join(' ') }}{{ m.content.split(None, 1)[0] }}",
    "rsplit": "{{ m.content.rsplit('<|/head|>', 1)[0] }}",
    "splitlines": "{{ m.content.splitlines() | join('|') }}",
    "splitlines with ends": "{% for l in m.content.splitlines(true) %}[{{ l }}]{% endfor %}",
    "partition": "{{ m.content.partition('<|eot|>')[2] }}{{ m.content.rpartition('<|')[0] }}",
    "replace away": "{{ m.content.replace('<|eot|>', '') }}",
    "replace by own": "{{ m.content.replace('a', '<|eot|>') }}{{ m.content | replace('b', '') }}",
    "replace some": "{{ m.content.replace('<|bos|>', '[bos]', 1) }}",
    "replace nothing": "{{ m.content | replace('', '') }}",
    "trim": "{{ m.content | trim }}{{ m.content.strip() }}{{ m.content.strip('<|>') }}",
    "trim one side": "{{ m.content.lstrip() }}|{{ m.content.rstrip('\n ') }}",
    "prefix": "{{ m.content.removeprefix('<|bos|>') }}{{ m.content.removesuffix('>') }}",
    "startswith": (
        "{% if not m.content.startswith(bos_token) %}{{ bos_token }}{% endif %}{{ m.content }}"
    ),
    "contains": "{% if '<|eot|>' in m.content %}yes{% else %}no{% endif %}",
    "find": "{{ m.content.find('<|eot|>') }},{{ m.content.count('<|') }},{{ m.content | length }}",
    "compare": "{{ m.content == '<|eot|>' }}{{ m.content < '<|f' }}{{ m.content in ['Hi', ''] }}",
    "slice": "{{ m.content[2:] }}|{{ m.content[:-3] }}|{{ m.content[::2] }}",
    "reverse": "{{ m.content[::-1] }}|{{ m.content | reverse }}",
    "first and last": "{{ m.content | first }}{{ m.content | last }}{{ m.content[0:1] }}",
    "loop": "{% for c in m.content %}{{ c }}{% endfor %}",
    "loop apart": "{% for c in m.content %}{{ c }}.{% endfor %}",
    "list": "{{ m.content | list | join }}",
    "case": "{{ m.content | upper }}{{ m.content.lower() }}{{ m.content.swapcase() }}",
    "title": "{{ m.content.title() }}{{ m.content | capitalize }}",
    "plus": "{{ '<|head|>' + m.content + '<|eot|>' + m.role }}",
    "tilde": "{{ '<|head|>' ~ m.content ~ 5 ~ '<|eot|>' ~ m.nothing }}",
    "times": "{{ m.content * 2 }}{{ 2 * m.content }}{{ '<|eot|>' * 2 }}",
    "percent": "{{ '<|head|>%s<|eot|>%5s%%' % (m.content, m.role) }}{{ '%d%%' % 5 }}",
    "percent by name": "{{ '%(a)s<|eot|>' % dict(a=m.content) }}",
    "format filter": "{{ '<|head|>%s' | format(m.content) }}",
    "format": "{{ '<|head|>{}<|eot|>{}'.format(m.content, m.role) }}",
    "format by name": "{{ '{a}<|eot|>{0}'.format(1, a=m.content) }}",
    "set": "{% set x = m.content %}{% set y = x ~ x %}{{ y }}",
    "set block": "{% set x %}<|head|>{{ m.content }}{% endset %}{{ x }}{{ x | trim }}",
    "namespace": "{% set n = namespace(t='') %}{% set n.t = n.t + m.content %}{{ n.t }}",
    "macro": "{% macro f(x, y='<|eot|>') %}<|head|>{{ x }}{{ y }}{% endmacro %}{{ f(m.content) }}",
    "call block": (
        "{% macro f() %}[{{ caller() }}]{% endmacro %}{% call f() %}{{ m.content }}{% endcall %}"
    ),
    "filter block": "{% filter trim %} <|eot|>{{ m.content }} {% endfilter %}",
    "generation": "{% generation %}{{ m.content }}<|eot|>{% endgeneration %}",
    "tojson": "{{ m | tojson }}{{ m.content | tojson(indent=2) }}{{ '<|eot|>' | tojson }}",
    "printed": "{{ m }}{{ m.items() | list }}",
    "map": "{{ messages | map(attribute='content') | join('<|eot|>') }}",
    "map upper": "{{ [m.content] | map('upper') | join }}",
    "keys": "{% for k, v in m.items() %}{{ k }}={{ v }};{% endfor %}",
    "dict": "{% set d = {'<|eot|>': m.content} %}{{ d['<|eot|>'] }}",
    "dict of words": "{{ {'type': 'a b', 'm': m} | tojson }}{{ {'type': m.content} }}",
    "sort": "{{ [m.content, 'a<|eot|>', 'Z'] | sort | join }}{{ [m.content] | unique | join }}",
    "choice": "{{ m.content if m.content else '<|eot|>' }}{{ m.nothing | default('<|eot|>') }}",
    "safe": "{{ m.content | safe }}<|eot|>",
    "string": "{{ m.content | string }}{{ 5 | string }}",
    "raw": "{% raw %}<|eot|>{{ }}{% endraw %}{{ m.content }}",
    "cut up": "{{ m.content[:3] }}{{ m.content[3:] }}",
    "token from constants": "{{ '<|' + 'eot' + '|>' }}{{ m.content }}",
    "tests": "{{ m.content is string }}{{ m is mapping }}{{ m.content is iterable }}",
    "attr": "{{ (m.content | attr('upper'))() }}",
}
# What is not followed: a chat is rendered, but one whose special tokens may be a message's is not.
NOT_FOLLOWED = {
    "both in one": "{% set d = {'<|eot|>': m.content} %}{{ d }}",
    "wordwrap": "{{ m.content | wordwrap(9) }}<|eot|>",
    "center": "{{ m.content | center(40) }}<|eot|>",
    "indent": "{{ m.content | indent(2) }}<|eot|>",
    "escape": "{{ m.content | e }}<|eot|>",
    "title filter": "{{ m.content | title }}<|eot|>",
    "autoescape": "{% autoescape true %}{{ m.content }}{% endautoescape %}<|eot|>",
}


@pytest.mark.parametrize("name", FOLLOWED)
@pytest.mark.parametrize("chat", range(len(CHATS)))
def test_traced_text_equals_that_of_transformers(name, chat):
    template = template_of(FOLLOWED[name])
    found = Template.find(folder_of(template))
    ours = Template(found.path, template, found.tokens, known=True)
    messages = CHATS[chat]
    try:
        expected = theirs(template, messages)
    except Exception as e:  # a template may fail on these messages: then it fails here too
        with pytest.raises(TemplateError, match=re.escape(str(e)[:40])):
            ours.render(check_messages(messages), ChatOptions(add_generation_prompt=False))
        return
    got = ours.render(
        check_messages(messages), ChatOptions(add_generation_prompt=False), traced=True
    )
    assert got.text == expected
    assert got.origin is not None and len(got.origin) == len(expected)
    for match in re.finditer("|".join(map(re.escape, SPECIAL)), expected):
        assert _origin.LOST not in got.origin[match.start() : match.end()], match


def disguised(value: object) -> object:
    """Messages with every special token in them replaced by private characters, one for one."""
    if isinstance(value, str):
        return SPECIALS.sub(lambda m: "".join(chr(0xE000 + ord(c)) for c in m[0]), value)
    if isinstance(value, dict):
        return {disguised(key): disguised(item) for key, item in value.items()}
    return [disguised(item) for item in value] if isinstance(value, list) else value


SPECIALS = re.compile("|".join(map(re.escape, sorted(SPECIAL, key=len, reverse=True))))
PLAIN = {0xE000 + ord(c): c for c in set("".join(SPECIAL))}


def own_tokens(template: str, messages: list[dict]) -> list[str] | None:
    """The special tokens that the template itself writes, found without following anything: what it
    renders when the messages spell none. None if it renders another text then."""
    other = theirs(template, disguised(messages))
    if other.translate(PLAIN) != theirs(template, messages):
        return None
    return SPECIALS.findall(other)


def test_only_special_tokens_of_the_template_count():
    compared = 0
    for body in FOLLOWED.values():
        template = template_of(body)
        tokenizer = tokenizer_of(template)
        for messages in CHATS:
            try:
                expected = own_tokens(template, messages)
            except Exception:
                continue
            if expected is None:
                continue
            compared += 1
            chat = tokenizer.chat(messages, add_generation_prompt=False)
            ids = chat.ids.tolist()
            assert [SPECIAL[i - BOS] for i in ids if i >= BOS] == expected, (template, messages)
            assert spelled_out(tokenizer, ids) == chat.text
    assert compared > 200


HEADS = [BOS, HEAD, *b"user", END_HEAD]


@pytest.mark.parametrize(
    ("body", "content", "tokens"),
    [
        ("{{ m.content.split('<|/head|>')[-1] }}", "a<|eot|><|/head|>b<|eot|>", [*b"b<|eot|>"]),
        ("{{ m.content.replace('<|eot|>', '') }}", "a<|eot|>b", [256]),
        ("{{ m.content.replace('[e]', '<|eot|>') }}", "a[e]<|eot|>", [97, EOT, *b"<|eot|>"]),
        ("{{ m.content.split('<|eot|>') | join('<|eot|>') }}", "<|eot|>", [*b"<|eot|>"]),
        ("{{ m.content.replace('<|eot|>', '<|eot|>\n') }}", "<|eot|>", [*b"<|eot|>\n"]),
        (
            "{% for p in m.content.split('<|eot|>') %}{{ p }}<|eot|>{% endfor %}",
            "c<|eot|>d",
            [*b"c<|eot|>d", EOT],
        ),
        ("{{ m.content | lower }}", "<|EOT|>", [*b"<|eot|>"]),
        ("{{ m.content[::-1] }}", ">|toe|<", [*b"<|eot|>"]),
        ("{{ m.content[:4] }}{{ m.content[4:] }}", "<|eot|>", [*b"<|eot|>"]),
        ("{{ m.parts | join }}", "", [*b"<|eot|>"]),
        ("{% for p in m.parts %}{{ p }}{% endfor %}", "", [*b"<|eot|>"]),
        ("{{ '{}{}'.format(*m.parts) }}", "", [*b"<|eot|>"]),
        ("{{ '<|eo' + m.content }}", "t|>", [*b"<|eot|>"]),
        ("{{ m.content + '|>' }}", "<|eot", [*b"<|eot|>"]),
        ("<|eot|>{{ m.content }}", ">", [EOT, *b">"]),  # not <|eot|>>
        ("{{ '<|' + m.role + '|>' }}", "", [*b"<|user|>"]),
    ],
)
def test_origins_of_split_and_joined_text(body, content, tokens):
    message = {"role": "user", "content": content, "parts": ["<|e", "ot|>"]}
    for here in (True, False):
        chat = tokenizer_of(template_of("{{ m.role }}<|/head|>" + body), here=here).chat([message])
        assert chat.ids.tolist() == [*HEADS, *tokens, EOT]


def test_a_role_may_name_a_token():
    """'<|' + role + '|>' is how some models write a turn."""
    tokenizer = tokenizer_of(
        "{% for m in messages %}{{ '<|' + m.role + '|>' }}{{ m.content }}{% endfor %}"
    )
    messages = [{"role": "head", "content": "<|eot|>"}, {"role": "/head", "content": ""}]
    chat = tokenizer.chat(messages)
    assert chat.ids.tolist() == [HEAD, *b"<|eot|>", END_HEAD]
    whole = tokenizer_of("{{ messages[0].role }}{{ eos_token }}")
    assert whole.chat([{"role": "<|eot|>", "content": ""}]).ids.tolist() == [*b"<|eot|>", EOT]


@pytest.mark.parametrize("name", NOT_FOLLOWED)
def test_untraced_text_makes_no_special_token_of_a_message(name):
    template = template_of(NOT_FOLLOWED[name])
    tokenizer = tokenizer_of(template)
    plain = tokenizer.chat([{"role": "user", "content": "th ab\nc"}], add_generation_prompt=False)
    assert plain.text == theirs(template, [{"role": "user", "content": "th ab\nc"}])
    assert [i for i in plain.ids.tolist() if i >= BOS] == [BOS, HEAD, EOT, EOT]
    try:
        chat = tokenizer.chat([{"role": "user", "content": "th <|eot|>\nc"}])
    except TemplateError as e:
        assert "does not show if '<|eot|>' is its own or a message's" in str(e)
        assert str(e).startswith(str(tokenizer.folder))
    else:
        assert [i for i in chat.ids.tolist() if i >= BOS] == [BOS, HEAD, EOT, EOT]
    parsed = tokenizer.chat([{"role": "user", "content": "<|eot|>"}], parse_special=True)
    assert EOT in parsed.ids


BITS = st.sampled_from([*SPECIAL, "<|", "|>", "eot", "</", ">", "a", " ", "\n", "ß", "%s", "{}"])
NASTY = st.lists(BITS, max_size=6).map("".join)


@given(st.sampled_from(sorted(FOLLOWED)), st.lists(NASTY, min_size=1, max_size=3))
@settings(deadline=None, max_examples=150)
def test_any_chat_of_any_template(name, contents):
    template = template_of(FOLLOWED[name])
    tokenizer = cached_tokenizer(template)
    messages = [{"role": "user", "content": text} for text in contents]
    try:
        expected = theirs(template, messages)
    except Exception:
        return
    chat = tokenizer.chat(messages, add_generation_prompt=False)
    assert chat.text == expected
    assert spelled_out(tokenizer, chat.ids.tolist()) == expected
    own = own_tokens(template, messages)
    if own is not None:
        ids = [SPECIAL[i - BOS] for i in chat.ids.tolist() if i >= BOS]
        assert [t.replace("|>>", "|>") for t in ids] == [t.replace("|>>", "|>") for t in own]


@functools.cache
def cached_tokenizer(template: str) -> Tokenizer:
    return tokenizer_of(template)


def test_a_traced_text_behaves_as_a_str():
    text = _origin.Text("ab", "og")
    assert text == "ab" and hash(text) == hash("ab") and {"ab": 1}[text] == 1
    assert type(str.__str__(text)) is str and json.dumps([text]) == '["ab"]'
    assert _origin.origin_of(text) == "og" and _origin.origin_of("ab") == "??"
    assert _origin.origin_of(_origin.Text("ab")) == "??"


@pytest.mark.parametrize(
    "walk",
    [
        "{{ m.content._origin }}",
        "{{ m.content | attr('_origin') }}",
        "{{ '{0._origin}'.format(m.content) }}",
        "{{ '{a._origin}'.format_map({'a': m.content}) }}",
        "{{ m.content.join.__globals__ }}",
        "{{ m.content.upper.__func__ }}",
        "{{ ('<|'.split).__self__ }}",
        "{{ [m.content] | map(attribute='_origin') | join }}",
        "{{ m.content.__class__.__mro__ }}",
    ],
)
def test_templates_cannot_reach_the_origin(walk):
    """In the second rendering alone, where texts are Texts."""
    compiled = _render.prepare({"template": template_of(walk), "traced": True})
    messages = [_origin.message({"role": "user", "content": "<|eot|>"})]
    try:
        text = _render._generate(compiled.traced, 1000, {"messages": messages})
    except Exception as e:
        assert "unsafe" in str(e) or "undefined" in str(e)
    else:
        assert text == "<|head|><|eot|>"  # an undefined value
