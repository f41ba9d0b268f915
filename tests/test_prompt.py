"""What may be a prompt or a batch of them, and what an error in a batch says of its prompt."""

import array
import io
import shutil
from collections import UserDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import llamaprobe as lp

IDS = [5, 1, 96, 5, 40]
CHAT = [{"role": "user", "content": "Who has the key?"}]


@pytest.fixture(scope="module")
def model(demo_folder: Path) -> lp.Model:
    return lp.load("demo", threads=1)


class Nowhere:
    """A tensor that holds no numbers, or not as an array does."""

    ndim = 1

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        raise RuntimeError("no storage")

    def tolist(self) -> list[Any]:
        raise NotImplementedError("no data")


class Tensor:
    """An array of another library: NumPy can convert it, and no more."""

    def __init__(self, values: Any, *, elsewhere: bool = False) -> None:
        self.values, self.elsewhere = np.asarray(values), elsewhere

    @property
    def ndim(self) -> int:
        return self.values.ndim

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        if self.elsewhere:
            raise TypeError("cannot convert a tensor on another device")
        return self.values

    def tolist(self) -> list[Any]:
        return self.values.tolist()


def torch_tensor(values: Any) -> Any:
    return pytest.importorskip("torch").tensor(values)


def series(values: Any) -> Any:
    return pytest.importorskip("pandas").Series(values)


@pytest.mark.parametrize(
    "make",
    [
        tuple,
        np.array,
        Tensor,
        torch_tensor,
        series,
        lambda ids: Tensor(ids, elsewhere=True),
        lambda ids: (i for i in ids),
        lambda ids: array.array("i", ids),
        lambda ids: np.array(ids, dtype=object),
        lambda ids: {i: None for i in range(7)}.keys() and dict.fromkeys([5, 1, 96, 40]).keys(),
        lambda ids: {"input_ids": ids, "attention_mask": [1] * 5},
        lambda ids: UserDict({"input_ids": Tensor(ids), "attention_mask": Tensor([1] * 5)}),
    ],
)
def test_a_sequence_of_ids(model: lp.Model, make: Callable[[list[int]], Any]):
    run = model.run(make(IDS), points="x")
    assert isinstance(run, lp.Run)
    assert run.token_ids.tolist() in (IDS, [5, 1, 96, 40]) and run.prompt is None


def test_a_range_is_a_sequence_of_ids(model: lp.Model):
    assert model.run(range(3, 9, 2)).token_ids.tolist() == [3, 5, 7]
    assert [len(run) for run in model.run([range(4), range(2)])] == [4, 2]


TEXTS = ["Once upon", "a time"]


@pytest.mark.parametrize(
    "make",
    [
        tuple,
        np.array,
        series,
        iter,
        lambda texts: (text for text in texts),
        lambda texts: np.array(texts, dtype=object),
        lambda texts: dict.fromkeys(texts).keys(),
        lambda texts: [np.str_(text) for text in texts],
    ],
)
def test_a_batch_of_texts(model: lp.Model, make: Callable[[list[str]], Any]):
    runs = model.run(make(TEXTS), points="x")
    assert isinstance(runs, list) and [run.prompt for run in runs] == TEXTS


@pytest.mark.parametrize(
    "batch",
    [
        [Tensor(IDS), Tensor([7])],
        [np.array(IDS), [7]],
        (ids for ids in (IDS, [7])),
        [{"input_ids": IDS}, {"input_ids": [7]}],
        {"input_ids": [IDS, [7]], "attention_mask": [[1] * 5, [1]]},
        np.array([np.array(IDS), np.array([7])], dtype=object),
        [iter(IDS), iter([7])],
    ],
    ids=lambda v: type(v).__name__,
)
def test_a_batch_of_ids(model: lp.Model, batch: Any):
    assert [run.token_ids.tolist() for run in model.run(batch, points="x")] == [IDS, [7]]


def test_output_of_a_tokenizer_of_transformers(model: lp.Model, demo_folder: Path):
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(demo_folder)
    one, many = tokenizer(TEXTS[0]), tokenizer(TEXTS)
    assert model.run(one).token_ids.tolist() == one["input_ids"]
    assert [run.token_ids.tolist() for run in model.run(many)] == many["input_ids"]
    row = tokenizer(TEXTS[0], return_tensors="pt")
    assert model.run(row.input_ids[0]).token_ids.tolist() == one["input_ids"]
    with pytest.raises(lp.ArgumentError, match=r"shape \[1, .*give array\[0\]"):
        model.run(row)
    chat = tokenizer.apply_chat_template(CHAT, return_dict=True)
    assert model.run(chat).token_ids.tolist() == chat["input_ids"]


class Unreadable:
    def __array__(self, *args: object, **kwargs: object) -> None:
        raise RuntimeError("no array")


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (Tensor([[1, 2, 3]]), r"a 1-D array of integers, not one of shape \[1, 3\]; give array\[0\]"),
        (np.ones(3), "token ids are integers, not float64"),
        (Tensor([True, False]), "token ids are integers, not bool"),
        (np.ma.array([1, 2, 3], mask=[0, 1, 0]), r"is masked \(1 of 3 values\).*filled\(value\)"),
        ([np.ma.array([1, 2], mask=[1, 0])], "prompt 0 of 1 .*is masked"),
        (Unreadable(), "cannot read the prompt, Unreadable: no array"),
        (b"Once", "not a bytes; decode bytes"),
        (bytearray(b"Once"), "not a bytearray; decode bytes"),
        ({1, 2}, "not a set; .* order"),
        (io.StringIO("Once\nupon"), "not a StringIO; .* read a file"),
        ({"role": "user", "content": "Hi"}, r"a list of messages, not one dict; give \[message\]"),
        ({"input_ids": [1, 2], "attention_mask": [0, 1]}, "attention_mask has zeros.*padding"),
        ({"input_ids": [[1, 2], [3, 0]], "attention_mask": [[1, 1], [1, 0]]}, "padding"),
        (5, "a prompt is text, a list of token ids, .*, not int"),
        (None, "not NoneType"),
        (Path("x"), "not PosixPath"),
        (np.int64(5), "not int64"),
        (np.array(5), r"not one of shape \[\]"),
        (Nowhere(), "NumPy cannot read the prompt, Nowhere: no data; give a list of token ids"),
        ({"input_ids": {"input_ids": [1]}}, "input_ids is a dict"),
        ((i for i in ()), "the prompt is empty"),
        (np.array([], dtype=str), "the prompt is empty"),
        ([None, 5], "item 0 of the prompt is None, not a token id"),
        ([1.5, 2.5], "item 0 of the prompt is 1.5, not a token id"),
        ([b"Once"], "item 0 of the prompt is b'Once', not a token id"),
        ([1, "Once"], "item 1 of the prompt is 'Once', not a token id"),
    ],
    ids=lambda v: str(v)[:20],
)
def test_rejects_what_is_not_a_prompt(model: lp.Model, prompt: Any, message: str):
    with pytest.raises(lp.ArgumentError, match=message) as e:
        model.run(prompt)
    assert str(e.value).isprintable()


LONG = "Once upon a time there was a fox who had the key of the house"


@pytest.mark.parametrize(
    ("batch", "cls", "message"),
    [
        (["Once", "", "a"], lp.ArgumentError, "prompt 1 of 3 (''): the prompt is empty"),
        ([[1, 2], [5, 99999]], lp.ArgumentError, "prompt 1 of 2 ([5, 99999]): token id 99999"),
        ([[5] * 5000, [1]], lp.ArgumentError, "prompt 0 of 2 ([5, 5, 5, 5, ...]): the prompt has"),
        (["Once", None], lp.ArgumentError, "prompt 1 of 2 (None): a prompt is text"),
        ([None, "Once"], lp.ArgumentError, "prompt 0 of 2 (None): a prompt is text"),
        ([float("nan"), "Once"], lp.ArgumentError, "prompt 0 of 2 (nan): a prompt is text"),
        (["Once", b"a"], lp.ArgumentError, "prompt 1 of 2 (b'a'): a prompt is not a bytes; decode"),
        (["Once", 5], lp.ArgumentError, "prompt 1 of 2 (5): a prompt is text"),
        (["Once", []], lp.ArgumentError, "prompt 1 of 2 ([]): the prompt is empty"),
        (["a", LONG + "\udc80"], lp.TokenizerError, "prompt 1 of 2 ('Once upon a time there was"),
        ([CHAT, [{"role": 5, "content": "Hi"}]], lp.ArgumentError, "prompt 1 of 2 ('Hi'): "),
        ([CHAT, [{"role": "nobody", "content": LONG}]], None, "prompt 1 of 2 ('Once upon a time"),
        ([[1], np.ones((2, 2), int)], lp.ArgumentError, "prompt 1 of 2 ([[1 1], [1 1]]): token ids"),
        ((t for t in ("Once", "")), lp.ArgumentError, "prompt 1 of 2 (''): the prompt is empty"),
        ([[1], {"role": "user"}], lp.ArgumentError, "prompt 1 of 2 ({'role': 'user'}): a chat is"),
    ],
    ids=lambda v: str(v)[:20],
)
def test_an_error_in_a_batch_names_the_prompt(
    model: lp.Model, batch: Any, cls: type[lp.Error] | None, message: str
):
    if cls is None:  # roles are the template's business: some take any
        try:
            model.run(batch)
        except lp.Error as e:
            assert str(e).startswith(message)
        return
    with pytest.raises(lp.Error) as e:
        model.run(batch)
    assert type(e.value) is cls and str(e.value).startswith(message)
    assert str(e.value).isprintable() and len(str(e.value)) < 500


def test_an_error_of_a_template_in_a_batch(demo_folder: Path, tmp_path: Path):
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (tmp_path / name).symlink_to(demo_folder / name)
    (tmp_path / "chat_template.jinja").write_text(
        "{% if messages[0].content == 'no' %}{{ raise_exception('refused') }}{% endif %}Hi"
    )
    model = lp.load(tmp_path)
    chats = [[{"role": "user", "content": content}] for content in ("yes", "no")]
    with pytest.raises(lp.TemplateError, match=r"^prompt 1 of 2 \('no'\): .*refused"):
        model.run(chats)


def test_a_template_that_renders_nothing(demo_folder: Path, tmp_path: Path):
    folder = shutil.copytree(demo_folder, tmp_path / "model")
    (folder / "chat_template.jinja").write_text("{{ nothing }}")
    with pytest.raises(lp.ArgumentError, match="^prompt 0 of 1 .* the chat template makes no text"):
        lp.load(folder).run([CHAT])


def test_an_error_without_a_batch_has_no_number(model: lp.Model):
    with pytest.raises(lp.ArgumentError, match="^the prompt is empty"):
        model.run("")
    with pytest.raises(lp.PointError, match="^there is no point 'nonsense'"):
        model.run(["Once", ""], points="nonsense")


def test_an_exception_of_a_generator_is_raised(model: lp.Model):
    def broken() -> Any:
        yield "Once"
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        model.run(broken())
