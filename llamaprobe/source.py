"""What a user calls a model -> the folder or the files that hold it.

"demo" is the model that comes with the package, even where a folder has that name; a folder that
exists wins over a repo id; what looks like owner/name is a repo id. The error for anything else
says what it may have been.
"""

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import _core
from .checkpoint.folder import open_checkpoint
from .checkpoint.tensors import Tensor, file_tensors
from .checkpoint.weights import Weights
from .errors import ArgumentError, FileError, HubError, UnsupportedError
from .files.paths import expand_user
from .messages import printable

if TYPE_CHECKING:
    from .model import Model

_DEMO = Path(__file__).parent / "demo"
_REPO_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9._-]+")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_OTHER_FORMATS = (".gguf", ".bin", ".pt", ".pth", ".ckpt")


def find_folder(source: object, revision: str, **hub: Any) -> tuple[Path, str | None]:
    """The folder of a model, downloaded if need be, and its commit where one is known.

    `hub`: further arguments of `hub.snapshot`. Raises as `find_local`, and HubError.
    """
    folder = find_local(source, revision)
    if folder is None:
        from .hub import snapshot

        with asking_the_hub(str(source)):
            folder = snapshot(str(source), revision=revision, **hub)
    return folder, _commit(folder)


def find_source(source: str | os.PathLike[str], revision: str = "main") -> Path:
    """A file itself, else as `find_folder`."""
    if isinstance(source, str):
        source = expand_user(source)
    return Path(source) if os.path.isfile(source) else find_folder(source, revision)[0]


def model_tensors(
    source: "Model | str | os.PathLike[str]", format: str = "csv"
) -> Iterator[Tensor]:
    """Every tensor of a model, a folder, a repo or a file, in the order of the data.

    Those of an open model are of the files that it opened, whatever their paths name now.
    ArgumentError when it is closed; FileChangedError.
    """
    return file_tensors(_files(source), format)


def _files(source: object) -> tuple[_core.Safetensors, ...]:
    if not isinstance(source, (str, os.PathLike)):
        if isinstance(weights := getattr(source, "weights", None), Weights):
            return weights.files
        raise ArgumentError(
            f"a model is a Model, a folder, a file or a repo id, not {printable(repr(source), 60)}"
        )
    path = whole_path(find_source(source))
    return (_core.Safetensors(path),) if os.path.isfile(path) else open_checkpoint(path).files


def whole_path(path: Path) -> Path:
    """The absolute path, so that a later chdir changes nothing; ".." stays, because what precedes
    it may be a link. Unchanged where only the current folder can be reached."""
    try:
        whole = path.absolute()
        return whole if os.path.samefile(whole, path) else path
    except OSError:
        return path


def find_local(source: object, revision: str) -> Path | None:
    """The folder of the demo or of the user's own, None for a repo id.

    FileError (missing, or not a folder), UnsupportedError (a weight file of another format),
    ArgumentError.
    """
    if not isinstance(source, (str, os.PathLike)) or not isinstance(os.fspath(source), str):
        raise ArgumentError(f"a model is a folder or a repo id, not {printable(repr(source), 60)}")
    if revision != "main":
        _check_no_token(revision, "a revision")
    name = expand_user(os.fspath(source))
    folder = _DEMO if source == "demo" else Path(name) if os.path.isdir(name) else None
    if folder is not None:
        if revision != "main":
            raise ArgumentError(
                f"{printable(name)} is a folder, which has no revision {printable(repr(revision))}"
            )
        return folder
    if os.path.lexists(name):
        raise _not_a_folder(name)
    _check_no_token(name, "a model's name")
    if not isinstance(source, str) or not _REPO_ID.fullmatch(name):
        raise _nothing(name)
    return None


@contextlib.contextmanager
def asking_the_hub(name: str) -> Iterator[None]:
    """Errors of the hub then also say that there is no folder of that name."""
    try:
        yield
    except HubError as e:
        e.reword(f"{e} (there is no folder {printable(name)} here either)")
        raise


def _check_no_token(name: str, what: str) -> None:
    from .hub.names import check_no_token

    check_no_token(name, what)


def _nothing(name: str) -> FileError:
    """For a name that is neither on the disk nor a repo id, with what may have been meant."""
    fact = f"{printable(name)}: no such folder, and not a repo id, which looks like owner/name"
    from .hub.names import repo_in_url

    if inside := repo_in_url(name):
        fact += f"; give {inside}"
    return FileError(fact, errno.ENOENT, name)


def _not_a_folder(name: str) -> FileError | UnsupportedError:
    shown = printable(name)
    if name.lower().endswith(_OTHER_FORMATS):
        return UnsupportedError(
            f"{shown}: only safetensors can be read; give the folder of a model that has them"
        )
    return FileError(
        f"{shown}: is not a folder; give the folder that holds config.json and the weights",
        errno.ENOTDIR,
        name,
    )


def _commit(folder: Path) -> str | None:
    """The commit that a hub cache names the folder after. `snapshots` may be a link to a folder of
    another name, and a link to a commit's folder may have any name."""
    for path in (folder, Path(os.path.realpath(folder))):
        if path.parent.name == "snapshots" and _COMMIT.fullmatch(path.name):
            return path.name
    return None
