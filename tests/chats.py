"""Folders with a template for tests of chats, and what transformers makes of it."""

import functools
import json
import tempfile
from pathlib import Path
from unittest import mock

import pytest
from small_tokenizer import byte_level, write_folder

from llamaprobe.prompts import _render, sandbox
from llamaprobe.prompts.tokenizer import Tokenizer


def template_of(body: str) -> str:
    return f"{{{{ bos_token }}}}{{% for m in messages %}}<|head|>{body}<|eot|>{{% endfor %}}"


def folder_of(template: object, **config: object) -> Path:
    folder = Path(tempfile.mkdtemp(dir=scratch()))
    return write_folder(folder, byte_level(), template=template, **config)


@functools.cache
def scratch() -> str:
    made = tempfile.TemporaryDirectory()
    scratch.keep = made  # type: ignore[attr-defined]
    return made.name


def tokenizer_of(template: object, *, here: bool = True, **config: object) -> Tokenizer:
    """`here`: see `render_here`."""
    tokenizer = Tokenizer.open(folder_of(template, **config))
    return render_here(tokenizer) if here else tokenizer


def render_here(tokenizer: Tokenizer) -> Tokenizer:
    """It renders in this process, by the code for templates that are not known."""
    call, compiled = sandbox.call, functools.cache(lambda json_: _render.prepare(json.loads(json_)))

    def in_process(script, prepare, request, **how):
        if script != "_render.py":
            return call(script, prepare, request, **how)
        return _render.answer(compiled(json.dumps(prepare)), request)

    tokenizer._workers = mock.Mock(call=in_process)
    return tokenizer


@functools.cache
def transformers_utils():
    return pytest.importorskip(
        "transformers.utils.chat_template_utils", reason="needs transformers: pip install -e '.[truth]'"
    )


def theirs(template: str, messages: list[dict], **options: object) -> str:
    return transformers_utils().render_jinja_template(
        conversations=[messages], chat_template=template, bos_token="<|bos|>", eos_token="<|eot|>",
        **options,
    )[0][0]


def spelled_out(tokenizer: Tokenizer, ids: list[int]) -> str:
    return b"".join(tokenizer._vocabulary.spelling(i) for i in ids).decode()
