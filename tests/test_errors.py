"""Exceptions: one class for each kind, Python's own classes, attributes, pickling."""

import copy
import errno
import os
import pickle
import pkgutil
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

import llamaprobe as lp
from llamaprobe import errors

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")


def all_classes() -> list[type[lp.Error]]:
    for module in pkgutil.walk_packages(lp.__path__, "llamaprobe."):
        if not module.name.rpartition(".")[2].startswith("__"):
            import_module(module.name)

    def below(cls: type[lp.Error]) -> Iterator[type[lp.Error]]:
        yield cls
        for child in cls.__subclasses__():
            yield from below(child)

    return sorted({c for c in below(lp.Error)}, key=lambda c: c.__name__)


PUBLIC = [cls for cls in all_classes() if not cls.__name__.startswith("_")]


@pytest.mark.parametrize("cls", PUBLIC, ids=lambda cls: cls.__name__)
def test_every_class_is_public_and_can_be_pickled(cls: type[lp.Error]):
    assert getattr(lp, cls.__name__) is cls and cls.__name__ in lp.__all__ and cls.__doc__
    error = cls("a message; with a step")
    error.add_note("a note")
    error.extra = 3  # type: ignore[attr-defined]
    if isinstance(error, OSError) and not isinstance(error, lp.Timeout):
        error.errno, error.filename = errno.EIO, "/a/file"
    for other in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(other) is cls and str(other) == str(error) and other.args == error.args
        assert other.extra == 3 and other.__notes__ == ["a note"]
        if isinstance(error, OSError):
            assert (other.errno, other.filename) == (error.errno, error.filename)
    error.reword("other words")
    assert type(error) is cls and str(error) == "other words" and error.extra == 3  # type: ignore[attr-defined]


def test_the_list_of_classes_is_complete():
    listed = errors.__doc__ or ""
    hub = {cls.__name__ for cls in PUBLIC if issubclass(cls, lp.HubError)} - {"HubError"}
    for cls in PUBLIC:
        assert cls.__name__ in listed or cls.__name__ in hub or cls is lp.Error, cls


@pytest.mark.parametrize(
    ("number", "builtin"),
    [
        (errno.ENOENT, FileNotFoundError),
        (errno.EACCES, PermissionError),
        (errno.EPERM, PermissionError),
        (errno.EISDIR, IsADirectoryError),
        (errno.ENOTDIR, NotADirectoryError),
        (errno.EEXIST, FileExistsError),
    ],
)
def test_a_file_error_is_of_the_class_of_its_errno(number: int, builtin: type[OSError]):
    error = lp.FileError("x: the fact", number, Path("x"))
    assert isinstance(error, builtin) and isinstance(error, lp.FileError)
    assert (error.errno, error.filename, error.strerror) == (number, "x", os.strerror(number))
    assert str(error) == "x: the fact"
    assert type(lp.FileError("x", errno.EIO)) is type(lp.FileError("x")) is lp.FileError
    assert type(lp.FileChangedError("x", errno.ENOENT)) is lp.FileChangedError


def no_weights(folder: Path) -> Any:
    (folder / "model.safetensors").unlink()
    return lp.load, folder, FileNotFoundError, folder / "model.safetensors"


def no_config(folder: Path) -> Any:
    (folder / "config.json").unlink()
    return lp.load, folder, FileNotFoundError, folder / "config.json"


def weights_are_a_folder(folder: Path) -> Any:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").mkdir()
    return lp.load, folder, IsADirectoryError, folder / "model.safetensors"


def config_is_a_folder(folder: Path) -> Any:
    (folder / "config.json").unlink()
    (folder / "config.json").mkdir()
    return lp.load, folder, IsADirectoryError, folder / "config.json"


def no_folder(folder: Path) -> Any:
    return lp.load, folder / "nowhere", FileNotFoundError, folder / "nowhere"


def a_file_for_a_folder(folder: Path) -> Any:
    return lp.load, folder / "config.json", NotADirectoryError, folder / "config.json"


def no_array(folder: Path) -> Any:
    return lp.read, folder / "x.csv", FileNotFoundError, folder / "x.csv"


def array_is_a_folder(folder: Path) -> Any:
    (folder / "x.npy").mkdir()
    return lp.read, folder / "x.npy", IsADirectoryError, folder / "x.npy"


def no_run(folder: Path) -> Any:
    return lp.read_run, folder, FileNotFoundError, folder / "manifest.json"


def no_run_folder(folder: Path) -> Any:
    return lp.read_run, folder / "nowhere", FileNotFoundError, folder / "nowhere"


@pytest.mark.parametrize(
    "case",
    [
        *(no_weights, no_config, weights_are_a_folder, config_is_a_folder, no_folder),
        *(a_file_for_a_folder, no_array, array_is_a_folder, no_run, no_run_folder),
    ],
    ids=lambda case: case.__name__,
)
def test_missing_files(case: Any, random_checkpoint: Any):
    call, path, builtin, filename = case(random_checkpoint())
    with pytest.raises(builtin) as e:
        call(path)
    assert isinstance(e.value, lp.FileError)
    assert e.value.filename == str(filename) and e.value.errno and str(path) in str(e.value)
    assert "[Errno" not in str(e.value)


def test_an_existing_file_is_not_replaced(random_checkpoint: Any, tmp_path: Path):
    run = lp.load(random_checkpoint()).run([1, 2])
    run.save(tmp_path / "run")
    with pytest.raises(FileExistsError, match="force=True") as e:
        run.save(tmp_path / "run")
    assert isinstance(e.value, lp.FileError) and e.value.errno == errno.EEXIST


def without_rights(call: Any, path: str) -> Exception | None:
    """The error that a user without rights gets; in a process of its own, which ends with it."""
    if os.geteuid() == 0:
        os.seteuid(65534)
    try:
        call(path)
    except Exception as e:
        return e
    return None


def test_unreadable_files(random_checkpoint: Any):
    with tempfile.TemporaryDirectory() as place:
        folder = shutil.copytree(random_checkpoint(), Path(place) / "model")
        array = Path(place) / "x.csv"
        array.write_text("# shape=[1]\n1\n")
        for opens, path in ((lp.load, folder), (lp.read, array)):
            opens(path)  # imports what it needs
        for path in (Path(place), folder):
            path.chmod(0o755)
        for call, path, denied in (
            (lp.read, array, array),
            (lp.load, folder, folder / "model.safetensors"),
            (lp.load, folder, folder / "config.json"),
        ):
            denied.chmod(0)
            with ProcessPoolExecutor(1, mp_context=get_context("fork")) as pool:
                error = pool.submit(without_rights, call, str(path)).result(timeout=120)
            assert type(error) is lp.FileDeniedError and isinstance(error, PermissionError)
            assert (error.errno, error.filename) == (errno.EACCES, str(denied))


def test_an_errno_without_a_class_of_its_own(tmp_path: Path):
    with pytest.raises(lp.FileError) as e:
        lp.read(tmp_path / ("x" * 300 + ".csv"))
    assert type(e.value) is lp.FileError and e.value.errno == errno.ENAMETOOLONG


def test_none_in_place_of_an_object(random_checkpoint: Any):
    run = lp.load(random_checkpoint()).run([1, 2])
    for other in (None, 3, "run", {}):
        with pytest.raises(lp.ArgumentError, match="compared with a Run"):
            run.equals(other)  # type: ignore[arg-type]
    for source in (None, 3, run):
        with pytest.raises(lp.ArgumentError):
            lp.load(source)  # type: ignore[arg-type]
