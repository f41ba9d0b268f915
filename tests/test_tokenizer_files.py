"""A tokenizer is made from the files present when its model was loaded; changed files are an error."""

import json
import os
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from small_tokenizer import BOS, EOT, byte_level, sentencepiece, write_folder

import llamaprobe as lp
from llamaprobe import ArgumentError, FileChangedError, FileError, TemplateError, TokenizerError
from llamaprobe.prompts.tokenizer_files import NAMES

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 17210084\n"
PAGE = b"<!DOCTYPE html>\n<html><body>Sign in</body></html>\n"


@pytest.fixture
def folder(random_checkpoint):
    """A model with a tokenizer."""
    return write_folder(random_checkpoint(vocab_size=265), byte_level())


# ---- changes between load and the first text ----


def replace_tokenizer(folder: Path) -> None:
    spec = byte_level()
    vocab = spec["model"]["vocab"]
    vocab["a"], vocab["b"] = vocab["b"], vocab["a"]
    (folder / "new").write_text(json.dumps(spec))
    os.replace(folder / "new", folder / "tokenizer.json")


CHANGES = [
    (replace_tokenizer, "tokenizer.json: changed since"),
    (lambda f: (f / "tokenizer_config.json").write_text("{}"), "tokenizer_config.json: changed"),
    (lambda f: (f / "tokenizer_config.json").unlink(), "tokenizer_config.json: is gone since"),
    (lambda f: (f / "tokenizer.json").unlink(), "tokenizer.json: is gone since"),
    (lambda f: (f / "added_tokens.json").write_text("{}"), "added_tokens.json: appeared since"),
    (lambda f: (f / "special_tokens_map.json").write_text("{}"), "special_tokens_map.json: appea"),
    (lambda f: (f / "chat_template.jinja").write_text("x"), "chat_template.jinja: appeared"),
    (lambda f: (f / "tokenizer.json").write_text("{"), "tokenizer.json: changed since"),
    (shutil.rmtree, "is gone since"),
]


@pytest.mark.parametrize("change, fact", CHANGES)
def test_changed_before_the_first_text(folder, change, fact):
    model = lp.load(folder)
    run = model.run([1, 2])
    change(folder)
    for use in (
        lambda: model.run("ab"),
        lambda: model.run([{"role": "user", "content": "ab"}]),
        lambda: model.tokenizer,
        lambda: run.tokens,
    ):
        with pytest.raises(FileChangedError, match=f"{fact}.*load the model again|{fact}"):
            use()


def test_a_run_whose_folder_is_gone_is_not_saved_without_its_tokens(folder, tmp_path):
    run = lp.load(folder).run([1, 2], points="x")
    shutil.rmtree(folder)
    with pytest.raises(FileChangedError, match="is gone"):
        run.save(tmp_path / "out")


def test_a_change_after_the_first_text_does_not_matter(folder):
    model = lp.load(folder)
    expected = model.run("ab", points="x").token_ids.tolist()
    replace_tokenizer(folder)
    assert model.run("ab", points="x").token_ids.tolist() == expected
    assert model.run([97], points="x").tokens == ["a"]


def test_changed_before_the_first_chat(folder):
    model = lp.load(folder)
    model.run("ab", points="x")
    (folder / "chat_template.jinja").write_text("another")
    with pytest.raises(FileChangedError, match="chat_template.jinja: appeared"):
        model.run([{"role": "user", "content": "ab"}], points="x")


def test_a_relative_folder_survives_chdir(random_checkpoint, tmp_path, monkeypatch):
    for name, spec in (("one", byte_level()), ("other", sentencepiece())):
        (tmp_path / name).mkdir()
        write_folder(random_checkpoint(vocab_size=266), spec).rename(tmp_path / name / "m")
    monkeypatch.chdir(tmp_path / "one")
    model = lp.load("m")
    monkeypatch.chdir(tmp_path / "other")
    assert model.run("ab", points="x").token_ids.tolist() == [BOS, 256]
    monkeypatch.chdir(tmp_path)
    assert model.run([256], points="x").tokens == ["ab"]


def test_a_folder_that_never_had_a_tokenizer(random_checkpoint, tmp_path):
    folder = random_checkpoint()
    model = lp.load(folder)
    assert model.run([1, 2], points="x").tokens is None
    with pytest.raises(TokenizerError, match="no tokenizer.json"):
        _ = model.tokenizer
    write_folder(folder, byte_level())
    assert model.run([1, 2], points="x").tokens is None
    with pytest.raises(FileChangedError, match="appeared since"):
        model.run("ab")


def test_child_reads_the_file_that_was_opened(folder, monkeypatch):
    from llamaprobe.prompts import tokenizer as module

    monkeypatch.setattr(module, "_LONG", 10)
    tokenizer = lp.load(folder).tokenizer
    assert tokenizer.encode("ab" * 20).tolist() == [BOS] + [256] * 20
    replace_tokenizer(folder)
    assert tokenizer.encode("ab").tolist() == [BOS, 256]
    with pytest.raises(FileChangedError, match="tokenizer.json: changed"):
        tokenizer.encode("ab" * 20)


# ---- files that were never fetched ----


@pytest.mark.parametrize("data, fact", [(LFS, "is a Git LFS pointer"), (PAGE, "is a web page")])
@pytest.mark.parametrize("name", [name for name in NAMES if name != "config.json"])
def test_pointers_and_web_pages_are_named(tmp_path, name, data, fact):
    write_folder(tmp_path, byte_level(), template=None)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(data)
    tools = [{"type": "function", "function": {"name": "f"}}] if "tool_use" in name else None
    with pytest.raises((TokenizerError, TemplateError), match=f"{name}: {fact}"):
        lp.Tokenizer.open(tmp_path).chat([{"role": "user", "content": "ab"}], tools=tools)


# ---- Model.tokenizer ----


def test_model_tokenizer(folder):
    model = lp.load(folder)
    tokenizer = model.tokenizer
    assert isinstance(tokenizer, lp.Tokenizer) and model.tokenizer is tokenizer
    assert tokenizer.encode("ab<|eot|>").tolist() == [BOS, 256, EOT]
    assert tokenizer.encode("ab<|eot|>", add_special_tokens=False).tolist() == [256, EOT]
    assert tokenizer.decode([BOS, 256, EOT]) == "<|bos|>ab<|eot|>"
    assert tokenizer.decode([BOS, 256, EOT], skip_special_tokens=True) == "ab"
    assert tokenizer.vocab_size == 265
    run = model.run("ab the", points="x")
    assert run.token_ids.tolist() == tokenizer.encode("ab the").tolist()
    assert run.tokens == tokenizer.pieces(run.token_ids)
    assert tokenizer.decode(run.token_ids) == "<|bos|>ab the"
    model.close()
    assert model.tokenizer is tokenizer


def test_ids_of_any_kind(folder):
    tokenizer = lp.Tokenizer.open(folder)
    for ids in ([97, 256], (97, 256), np.array([97, 256], np.uint16), np.array([97, 0, 256])[::2]):
        assert tokenizer.decode(ids) == "aab" and tokenizer.pieces(ids) == ["a", "ab"]
    assert tokenizer.decode([]) == "" and tokenizer.pieces([]) == []
    assert tokenizer.decode([97, 2**40, 265, 98]) == "ab"
    assert tokenizer.decode(tokenizer.encode("é", add_special_tokens=False)[:1]) == "\ufffd"
    for wrong in ([-1], [1.5], [[1]], 5, "ab", None, [None], [[1], [2, 3]], [True]):
        for use in (tokenizer.decode, tokenizer.pieces):
            with pytest.raises(ArgumentError, match="1-D list or array of integers"):
                use(wrong)


def test_tensors_of_ids(folder):
    torch = pytest.importorskip("torch", reason="needs torch: pip install -e '.[truth]'")
    tokenizer = lp.Tokenizer.open(folder)
    assert tokenizer.decode(torch.tensor([97, 256])) == "aab"
    assert tokenizer.pieces(torch.tensor([97, 256])) == ["a", "ab"]
    with pytest.raises(ArgumentError):
        tokenizer.decode(torch.tensor([[97, 256]]))


def test_decoded_text_is_bounded(tmp_path):
    spec = byte_level()
    spec["model"]["vocab"]["x" * 100_000] = 260
    spec["added_tokens"], spec["post_processor"] = [], None
    tokenizer = lp.Tokenizer.open(write_folder(tmp_path, spec))
    assert len(tokenizer.decode([260] * 8)) == 800_000  # in a child: long
    with pytest.raises(TokenizerError, match="100000000 characters of text; the limit is 67108864"):
        tokenizer.decode([260] * 1000)
    assert len(tokenizer.pieces([260] * 100_000)) == 100_000


def test_long_decoding_in_a_child_is_the_same(folder, monkeypatch):
    from llamaprobe.prompts import tokenizer as module

    tokenizer = lp.Tokenizer.open(folder)
    ids = tokenizer.encode("the ab<|eot|> é")
    expected = tokenizer.decode(ids), tokenizer.decode(ids, skip_special_tokens=True)
    monkeypatch.setattr(module, "_LONG", 3)
    assert (tokenizer.decode(ids), tokenizer.decode(ids, skip_special_tokens=True)) == expected


def test_the_tokenizer_is_opened_once_by_many_threads(folder):
    model, found = lp.load(folder), []
    threads = [threading.Thread(target=lambda: found.append(model.tokenizer)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4 and len(set(map(id, found))) == 1


def test_folder_errors(tmp_path):
    with pytest.raises(FileError, match="no such folder"):
        lp.Tokenizer.open(tmp_path / "nowhere")
