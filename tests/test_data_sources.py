"""Datasets: what each kind of file gives, and what a broken one says."""

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import llamaprobe as lp
from llamaprobe.data.document import Fault, choose_column
from llamaprobe.data.line_files import MAX_LINE
from llamaprobe.data.sources import find_sources
from llamaprobe.data.tokens import encoder_of


def read(data, **column):
    chosen = choose_column(column.get("text"), column.get("ids"), column.get("chat"))
    return [doc for source in find_sources(data) for doc in source.read(chosen)]


def values(data, **column):
    return [
        doc.value.tolist() if isinstance(doc.value, np.ndarray) else doc.value
        for doc in read(data, **column)
    ]


def reasons(data, **column):
    return [
        (doc.where.rpartition(": ")[2], doc.value.reason)
        for doc in read(data, **column)
        if isinstance(doc.value, Fault)
    ]


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


# ---- lines ----


def test_a_line_of_text_is_a_document(tmp_path):
    path = write(tmp_path / "a.txt", b"\xef\xbb\xbfone\r\ntwo \n\nno end")
    assert values(path) == ["one", "two ", "", "no end"]
    assert [doc.where for doc in read(path)][3] == f"{path}: line 4"


def test_text_that_is_not_utf8_is_a_fault(tmp_path):
    path = write(tmp_path / "a.txt", b"good\nb\xffd\n")
    assert reasons(path) == [("line 2", "is not UTF-8: character 1 is the byte 0xff")]


def test_json_lines(tmp_path):
    chat = [{"role": "user", "content": "hi"}]
    records = [{"text": "a", "n": 1}, {"input_ids": [1, 2]}, {"messages": chat}, {"prompt": "p"}]
    lines = [json.dumps(record) for record in records]
    path = write(tmp_path / "a.jsonl", "\n".join([*lines, '"bare"', "[3, 4]", "", ""]))
    assert values(path) == ["a", [1, 2], chat, "p", "bare", [3, 4]]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"text": "a"', "is not JSON: Expecting ',' delimiter at column 13"),
        ('{"text": NaN}', "is not JSON: NaN is not valid JSON"),
        ('{"text": 5}', "text is 5, not text, token ids or chat messages"),
        ('{"other": 5}', "has no text or input_ids or messages or prompt; its columns: other"),
        ("5", "is 5, not a JSON object"),
        ("[" * 100_000, "is nested too deeply"),
        ('{"input_ids": [1, 0], "attention_mask": [1, 0]}', "the attention_mask has zeros"),
        ('{"text": ' + "9" * 5000 + "}", "is not JSON: Exceeds the limit"),
        (b'{"text": "\xff"}', "is not UTF-8: byte 10 is 0xff"),
    ],
)
def test_a_bad_line_of_json_is_a_fault_and_the_next_is_read(tmp_path, line, reason):
    line = line.encode() if isinstance(line, str) else line
    path = write(tmp_path / "a.jsonl", b'"one"\n' + line + b'\n"three"\n')
    found = read(path)
    assert [found[0].value, found[2].value] == ["one", "three"]
    assert found[1].where == f"{path}: line 2" and found[1].value.reason.startswith(reason)


def test_a_line_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("llamaprobe.data.line_files.MAX_LINE", 10)
    assert MAX_LINE > 1 << 20
    path = write(tmp_path / "a.txt", "short\n" + "x" * 11)
    with pytest.raises(lp.FormatError, match="line 2: over 10 bytes"):
        read(path)


def test_csv_and_tsv(tmp_path):
    path = write(tmp_path / "a.csv", 'id,text\n1,"two\nlines, ""quoted"""\n2,plain\n')
    assert values(path) == ['two\nlines, "quoted"', "plain"]
    assert values(path, text="id") == ["1", "2"]
    assert read(path)[1].where == f"{path}: line 4"
    assert values(write(tmp_path / "a.tsv", "text\tn\na,b\t1\n")) == ["a,b"]


def test_faults_of_csv(tmp_path):
    path = write(tmp_path / "a.csv", b"id,text\n1\n2,\xff\n3,c\n")
    assert reasons(path) == [
        ("line 2", "has 1 columns, the header has 2"),
        ("line 3", "is not UTF-8: character 0 is the byte 0xff"),
    ]
    for text, message in [
        ("", "has no header"),
        ("a,a\n", "two columns have the same name"),
        ('text\n"open\n', "line 2: unexpected end of data"),
    ]:
        with pytest.raises(lp.FormatError, match=message):
            read(write(tmp_path / "b.csv", text))


@pytest.mark.parametrize(
    ("text", "expected"),
    [('{"text": "a"}\n{"text": "b"}\n', ["a", "b"]), ("{a\nb\n", ["{a", "b"]), ("", [])],
)
def test_stdin_is_json_lines_or_text(monkeypatch, text, expected):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    assert values(Path("-")) == expected


# ---- ids ----


def test_npy(tmp_path):
    np.save(tmp_path / "one.npy", np.arange(5, dtype=np.uint16))
    np.save(tmp_path / "two.npy", np.arange(6).reshape(2, 3))
    assert values(tmp_path / "one.npy") == [[0, 1, 2, 3, 4]]
    assert values(tmp_path / "two.npy") == [[0, 1, 2], [3, 4, 5]]
    for array in (np.zeros(3), np.zeros((1, 1, 1), int), np.array([{}], object)):
        np.save(tmp_path / "bad.npy", array, allow_pickle=True)
        with pytest.raises(lp.FormatError, match=r"bad\.npy"):
            read(tmp_path / "bad.npy")
    for data in (b"", b"\x93NUMPY", b"\x93NUMPY\x01\x00\x06\x00{'a':1", b"PK\x03\x04"):
        with pytest.raises(lp.FormatError, match=r"bad\.npy"):
            read(write(tmp_path / "bad.npy", data))


def test_safetensors(tmp_path):
    path = tmp_path / "a.safetensors"
    ragged = {"token_id": np.arange(5, dtype=np.int32), "doc_start": np.array([0, 2, 2, 5])}
    save_file(ragged, path)
    assert values(path) == [[0, 1], [], [2, 3, 4]]
    assert values(path, ids="doc_start") == [[0, 2, 2, 5]]
    save_file({"anything": np.arange(4).reshape(2, 2)}, path)
    assert values(path) == [[0, 1], [2, 3]]
    for tensors, message in [
        ({"a": np.zeros(2, int), "b": np.zeros(2, int)}, "no tensor input_ids; its tensors: "),
        ({"a": np.zeros(2)}, "a is F64, not token ids"),
        ({**ragged, "doc_start": np.array([0, 6])}, "must rise from 0 to 5"),
        ({**ragged, "doc_start": np.array([0, 3, 2, 5])}, "must rise from 0 to 5"),
    ]:
        save_file(tensors, path)
        with pytest.raises(lp.FormatError, match=message):
            read(path)


# ---- Parquet and Arrow ----


def test_parquet(tmp_path):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = {"n": [1, 2, 3], "text": ["a", "b", None], "ids": [[1], [2, 3], []]}
    parquet.write_table(pa.table(rows), tmp_path / "a.parquet")
    assert values(tmp_path / "a.parquet", ids="ids") == [[1], [2, 3], []]
    assert values(tmp_path / "a.parquet")[:2] == ["a", "b"]
    assert reasons(tmp_path / "a.parquet") == [
        ("row 2", "text is None, not text, token ids or chat messages")
    ]
    assert values(tmp_path)[:2] == ["a", "b"]  # a folder of them
    missing = reasons(tmp_path / "a.parquet", text="body")
    assert missing[0] == ("row 0", "has no body; its columns: n, text, ids")
    with pytest.raises(lp.FormatError, match="not a whole Parquet file"):
        read(write(tmp_path / "b.parquet", b"PAR1 no PAR1"))


@pytest.mark.parametrize("kind", ["stream", "file"])
def test_a_dataset_on_disk(tmp_path, kind):
    pa = pytest.importorskip("pyarrow")
    open_writer = {"stream": pa.ipc.new_stream, "file": pa.ipc.new_file}[kind]
    folder = tmp_path / "set"
    folder.mkdir()
    for number, texts in enumerate((["a", "b"], ["c"])):
        table = pa.table({"text": texts})
        with open_writer(folder / f"data-{number}.arrow", table.schema) as writer:
            writer.write_table(table)
    state = {"_data_files": [{"filename": "data-1.arrow"}, {"filename": "data-0.arrow"}]}
    (folder / "state.json").write_text(json.dumps(state))
    assert values(folder) == ["c", "a", "b"]
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["set", "test"]}')
    with pytest.raises(lp.ArgumentError, match="give one of its folders: set, test"):
        read(tmp_path)
    (folder / "state.json").write_text('{"_data_files": [{"filename": "../a.arrow"}]}')
    with pytest.raises(lp.FormatError, match="names no data files"):
        read(folder)
    with pytest.raises(lp.FormatError, match="not a whole Arrow file"):
        read(write(tmp_path / "c.arrow", b"no arrow"))


@pytest.fixture
def written(tmp_path):
    """A folder that the library itself wrote: selected rows, in three files."""
    datasets = pytest.importorskip("datasets")
    chats = [[{"role": "user", "content": f"Hello {n}"}] for n in range(20)]
    table = {
        "title": [f"t{n}" for n in range(20)],
        "text": [f"text {n}" for n in range(20)],
        "input_ids": [list(range(n)) for n in range(20)],
        "messages": chats,
    }
    chosen = datasets.Dataset.from_dict(table).shuffle(seed=1).select(range(15))
    chosen.save_to_disk(tmp_path / "set", num_shards=3)
    return tmp_path / "set", chosen


def test_a_dataset_that_its_library_wrote(written):
    folder, chosen = written
    assert len(list(folder.glob("*.arrow"))) == 3
    assert values(folder) == values(folder, text="text") == chosen["text"][:]
    assert values(folder, text="title") == chosen["title"][:]
    assert values(folder, ids="input_ids") == chosen["input_ids"][:]
    assert values(folder, chat="messages") == chosen["messages"][:]


def test_a_harvest_of_a_dataset_that_its_library_wrote(written, tmp_path):
    folder, chosen = written
    options = {"points": "x:1", "ids": "input_ids"}
    h = lp.harvest(lp.load("demo"), folder, tmp_path / "out", **options)
    expected = [ids for ids in chosen["input_ids"] if ids]
    assert [h.tokens(n).tolist() for n in range(h.plan.n_documents)] == expected
    names = [source["name"] for source in h.plan.facts["sources"]]
    assert names == [f"data-0000{n}-of-00003.arrow" for n in range(3)]


def test_several_datasets_and_parquet_that_their_library_wrote(written, tmp_path):
    import datasets

    _, chosen = written
    datasets.DatasetDict({"train": chosen, "test": chosen}).save_to_disk(tmp_path / "both")
    with pytest.raises(lp.ArgumentError, match="give one of its folders: train, test"):
        read(tmp_path / "both")
    assert values(tmp_path / "both" / "test") == chosen["text"][:]
    chosen.to_parquet(tmp_path / "a.parquet")
    assert values(tmp_path / "a.parquet", ids="input_ids") == chosen["input_ids"][:]


def test_without_pyarrow_the_message_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(lp.ArgumentError, match=r"pip install 'llamaprobe\[data\]'"):
        read(write(tmp_path / "a.parquet", b""))


# ---- arguments ----


def test_iterables_of_documents():
    data = ("a", [1, 2], range(3), {"text": "b"}, np.arange(2), [{"role": "user", "content": "c"}])
    assert values(each for each in data) == [
        *("a", [1, 2], [0, 1, 2], "b", [0, 1]),
        [{"role": "user", "content": "c"}],
    ]
    assert reasons([5, b"x", None, {1}])[0] == (
        "document 0",
        "is int, not text, token ids or messages",
    )
    assert len(reasons([5, b"x", None, {1}])) == 4


def test_several_files(tmp_path):
    paths = [write(tmp_path / f"{name}.txt", name) for name in "ba"]
    assert values(paths) == ["b", "a"]
    with pytest.raises(lp.ArgumentError, match="mixes Paths with documents"):
        find_sources([paths[0], "text"])


@pytest.mark.parametrize("data", [5, None, b"a.txt", {"text": "a"}])
def test_rejects_what_is_not_a_dataset(data):
    with pytest.raises(lp.ArgumentError, match="give a file, a folder"):
        find_sources(data)


def test_missing_files(tmp_path):
    with pytest.raises(FileNotFoundError):
        find_sources(tmp_path / "a.jsonl")
    with pytest.raises(FileNotFoundError):
        find_sources(str(tmp_path / "a"))
    with pytest.raises(FileNotFoundError, match="without state.json"):
        find_sources(tmp_path)
    with pytest.raises(lp.ArgumentError, match=r"can be read: \.jsonl"):
        find_sources(write(tmp_path / "a.pdf", ""))


def test_a_column_is_one_name():
    with pytest.raises(lp.ArgumentError, match="not in several: a, b"):
        choose_column("a", "b", None)


# ---- token ids ----


@pytest.fixture(scope="module")
def encode():
    with encoder_of(lp.load("demo")) as encoder:
        yield encoder.encode


def test_every_kind_becomes_ids(encode):
    model = lp.load("demo")
    assert np.array_equal(encode("Once upon"), model.run("Once upon").token_ids)
    assert encode([1, 2]).tolist() == [1, 2] and encode([1]).dtype == np.int32
    assert encode("").tolist() == encode([]).tolist() == []
    chat = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    expected = model.tokenizer.chat(chat, add_generation_prompt=False).ids
    assert np.array_equal(encode(chat), expected)


def test_special_tokens_can_be_left_out():
    model = lp.load("demo")
    with encoder_of(model, "never") as encoder:
        expected = model.tokenizer.encode("Once", add_special_tokens=False)
        assert np.array_equal(encoder.encode("Once"), expected)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ([1, 960], "token id 960 at position 1 is outside the vocabulary, 0 to 959"),
        ([-1], "token id -1 at position 0"),
        ([1, 2.0], "not a list of token ids"),
        ([True], "not a list of token ids"),
        ([[1], [2, 3]], "not a list of token ids"),
        ([2**70], "not a list of token ids"),
        ("\ud800", "surrogate"),
        ([{"role": "user"}], "content"),
    ],
)
def test_a_document_without_ids_has_a_reason(encode, value, reason):
    assert reason in encode(value).reason


def test_a_model_without_tokenizer_takes_ids(random_checkpoint):
    with encoder_of(lp.load(random_checkpoint())) as encoder:
        assert encoder.encode([1, 2]).tolist() == [1, 2]
        assert "no tokenizer.json" in encoder.encode("text").reason
