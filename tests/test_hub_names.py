"""File names from the hub that become paths: what is refused before anything is written, and that
nothing outside the folder is reached."""

from pathlib import Path

import pytest
from fakehub import FakeHub
from hub_fixtures import REPO_ID, hub, small_model, tree  # noqa: F401

import llamaprobe as lp
from llamaprobe.errors import ArgumentError, FileError
from llamaprobe.hub import MetadataError, UnsafeNameError, download

NOT_A_REPO = {
    "demo": "demo comes with llamaprobe",
    "https://huggingface.co/org/name": "give org/name$",
    "HTTPS://hf.co/org/name/tree/main/sub?x=/a/b": "give org/name$",
    "http://127.0.0.1:8080/mirror/org/name/": "give org/name$",
    "https://huggingface.co/gpt2/resolve/main/config.json": "give gpt2$",
    "https://somebody:secret@hub/org/name#x": "give org/name$",
    "https://huggingface.co/": "must be owner/name",
    "https://huggingface.co/org/hf_abcdefghijklmnopqrstuvw": "must be owner/name; this looks like a token",
}


@pytest.mark.parametrize("name", NOT_A_REPO)
def test_which_addresses_name_a_repository(hub: FakeHub, name: str) -> None:
    with pytest.raises(ArgumentError, match=NOT_A_REPO[name]):
        download(name)
    assert hub.seen == []


def test_loading_an_address_names_the_repository(hub: FakeHub) -> None:
    with pytest.raises(FileError, match="not a repo id, which looks like owner/name; give org/name"):
        lp.load("https://huggingface.co/org/name")


NEVER_HONEST = [
    *("../x.json", "a/../../x.json", "..", "/etc/x.json", "a\\..\\x.json", "..\\x.json"),
    *("C:\\x.json", "C:x.json", "a/C:/x", "\\\\host\\share\\x.json"),
    *("a//x.json", "./x.json", "a/./x.json", "a/", ""),
    *("x\0.json", "x\n.json", "x\x1b[0m.json", "\ud800.json"),
    *("x" * 256, "é" * 128, "a/" * 600 + "x", 5, None, ["x"]),
]


@pytest.mark.parametrize("path", NEVER_HONEST, ids=lambda path: ascii(path)[:20])
def test_rejects_a_listing_with_an_unsafe_name(hub: FakeHub, tmp_path: Path, path: object) -> None:
    entry = {"type": "file", "oid": "a" * 40, "size": 1, "path": path}
    hub.add(REPO_ID, small_model(), extra_entries=[entry])
    with pytest.raises(UnsafeNameError) as caught:
        download(REPO_ID)
    assert str(caught.value).isprintable()
    assert not (tmp_path / "hf").exists() and hub.requests("resolve") == []


PAIRS = [
    *(["A.json", "a.json"], ["x", "x/y.json"], ["X", "x/y.json"], ["Sub/a.json", "sub/b.json"]),
    *(["\u00e9.json", "e\u0301.json"], ["stra\u00dfe.json", "STRASSE.json"]),
    *(["trailing. "], ["trailing."], ["CON"], ["con.json"], ["a/NUL.txt"], ["lpt1"]),
]


@pytest.mark.parametrize("paths", PAIRS, ids=ascii)
def test_rejects_selected_names_that_some_system_cannot_hold(
    hub: FakeHub, tmp_path: Path, paths: list[str]
) -> None:
    hub.add(REPO_ID, small_model() | dict.fromkeys(paths, b"x"))
    for options in ({}, {"local_dir": tmp_path / "out"}):
        with pytest.raises(UnsafeNameError):
            download(REPO_ID, include="*", **options)
    assert not (tmp_path / "out").exists() and hub.requests("resolve") == []
    download(REPO_ID)


def test_the_bookkeeping_cannot_be_written_by_the_hub(hub: FakeHub, tmp_path: Path) -> None:
    hub.add(REPO_ID, small_model() | {".CACHE/huggingface/download/config.json.metadata": b"x"})
    with pytest.raises(UnsafeNameError, match="bookkeeping"):
        download(REPO_ID, include="*", local_dir=tmp_path / "out")


def test_a_name_too_long_for_its_bookkeeping(hub: FakeHub, tmp_path: Path) -> None:
    hub.add(REPO_ID, small_model() | {"x" * 250: b"1"})
    with pytest.raises(UnsafeNameError, match="over 246 bytes"):
        download(REPO_ID, include="*", local_dir=tmp_path / "out")
    assert "x" * 250 in tree(download(REPO_ID, include="*"))


@pytest.mark.parametrize(
    "change",
    [
        *({"oid": "../../x"}, {"oid": "A" * 40}, {"oid": None}),
        *(
            {"size": -1},
            {"size": "5"},
            {"size": 1.0},
            {"size": True},
            {"size": None},
            {"size": 1 << 60},
        ),
        *({"lfs": {"oid": "../x", "size": 1}}, {"lfs": {"oid": "a" * 64, "size": 2}}),
    ],
)
def test_rejects_entries_with_impossible_values(hub: FakeHub, change: dict) -> None:
    entry = {"type": "file", "oid": "a" * 40, "size": 1, "path": "x.json"} | change
    hub.add(REPO_ID, small_model(), extra_entries=[entry])
    with pytest.raises(MetadataError):
        download(REPO_ID)


@pytest.mark.parametrize("place", ["local_dir", "cache_dir"])
def test_a_file_where_the_folder_should_be(hub: FakeHub, tmp_path: Path, place: str) -> None:
    hub.add(REPO_ID, small_model())
    (tmp_path / "file").write_bytes(b"precious")
    with pytest.raises(FileError, match="a file or a folder is in the way; remove it and run again"):
        download(REPO_ID, **{place: tmp_path / "file"})
    assert (tmp_path / "file").read_bytes() == b"precious"


def test_links_in_the_way_are_not_followed(hub: FakeHub, tmp_path: Path) -> None:
    files = small_model() | {"sub/x.json": b"evil"}
    repo = hub.add(REPO_ID, files)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "config.json").write_bytes(b"precious")
    out = tmp_path / "out"
    out.mkdir()
    (out / "sub").symlink_to(outside)
    (out / "config.json").symlink_to(outside / "config.json")
    with pytest.raises(OSError, match="in the way"):
        download(REPO_ID, include=["sub/*"], local_dir=out)
    assert tree(download(REPO_ID, local_dir=out))["config.json"] == files["config.json"]
    snapshots = tmp_path / "hf/hub/models--meta-llama--Llama-3.2-1B-Instruct/snapshots"
    snapshots.mkdir(parents=True)
    (snapshots / repo.commit).symlink_to(outside)
    with pytest.raises(OSError, match="in the way"):
        download(REPO_ID)
    assert (outside / "config.json").read_bytes() == b"precious" and len(
        list(outside.iterdir())
    ) == 1
