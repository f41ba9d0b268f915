"""What a user calls a model -> the folder or the files that hold it.

"demo" is the model that comes with the package, even where a folder has that name; a folder that
exists wins over a repo id; what looks like owner/name is a repo id. The error for anything else
says what it may have been.
"""

import contextlib
import errno
import fnmatch
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import _core
from .arguments import refusal, shown
from .checkpoint.folder import INDEX, SINGLE, Checkpoint
from .checkpoint.opening import Opening, open_weights
from .checkpoint.tensors import Tensor, file_tensors, weight_tensors
from .checkpoint.weights import Weights
from .errors import ArgumentError, FileError, HubError, UnsupportedError
from .files.paths import expand_user
from .gguf.choice import SUFFIX, choose, parts_of
from .messages import printable, shown_path
from .prompts.tokenizer_files import TokenizerFiles

if TYPE_CHECKING:
    from .config import Config
    from .model import Model

_DEMO = Path(__file__).parent / "demo"
_REPO_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9._-]+")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_REPO_FILE = re.compile(rf"({_REPO_ID.pattern})/(.+\.gguf)", re.IGNORECASE)
_REPO_TAG = re.compile(rf"({_REPO_ID.pattern}):([A-Za-z0-9._-]+)")  # of llama.cpp and Ollama
_MAGIC = b"GGUF"
_OTHER_FORMATS = (".bin", ".pt", ".pth", ".ckpt")


def split_file(source: Any, file: str | None) -> tuple[Any, str | None]:
    """A path of a GGUF as its folder, a Path, and its name; other sources as they are. `file` must
    then be that name or absent. ArgumentError."""
    if file is not None and (not isinstance(file, str) or not file):
        raise ArgumentError(f"file is {shown(file)}; it is the name of a .gguf file or a glob")
    path = os.fspath(source) if isinstance(source, (str, os.PathLike)) else None
    if not isinstance(path, str) or not os.path.isfile(path := expand_user(path)):
        return source, file
    if not path.lower().endswith(SUFFIX):
        _check_not_gguf(path)
        if file is not None:
            raise ArgumentError(f"{printable(path)} is a file; file is for a folder or a repo")
        return source, file
    folder, name = os.path.split(path)
    if file not in (None, name) and not fnmatch.fnmatchcase(name, file or ""):
        raise ArgumentError(
            f"file is {shown(file)}, and the model is {printable(path)}; give its"
            " folder to choose another"
        )
    return Path(folder or os.curdir), name


def _check_not_gguf(path: str) -> None:
    """ArgumentError for a GGUF that its name does not show to be one, as those of Ollama."""
    with contextlib.suppress(OSError), open(path, "rb") as file:
        if file.read(len(_MAGIC)) == _MAGIC:
            raise ArgumentError(
                f"{printable(path)}: is a GGUF, but its name does not end in {SUFFIX}; give a link"
                f" to it that does: ln -s {printable(path)} model{SUFFIX}"
            )


def choose_gguf(folder: Path, file: str | None) -> str | None:
    """The first file of a model in GGUF, by its path below `folder`; None where the folder has
    safetensors or nothing, unless `file` names one. ArgumentError unless it is one model."""
    if file is not None and file.lower().endswith(SUFFIX) and os.path.isfile(folder / file):
        return parts_of(file)[0]
    names = _listed(folder)
    if file is None:
        if not os.path.isdir(folder) or {SINGLE, INDEX} & set(names):
            return None
    else:
        below = [
            name for name in names if not name.startswith(".") and os.path.isdir(folder / name)
        ]
        names += [f"{name}/{each}" for name in below for each in _listed(folder / name)]
    return choose(names, file, shown_path(folder))


def open_gguf_of(opening: Opening) -> "tuple[Checkpoint, Config]":
    """Of a model in GGUF. Raises as `gguf.opening.open_gguf`."""
    from .gguf.opening import open_gguf

    how: dict[str, Any] = {
        name: getattr(opening, name) for name in ("mmap", "weights_as", "layers")
    }
    return open_gguf(opening.folder, opening.file or "", **how)


def tokenizer_files(checkpoint: Checkpoint) -> TokenizerFiles:
    """The files of the tokenizer that comes with weights."""
    if checkpoint.format != "gguf":
        return TokenizerFiles(checkpoint.folder)
    from .gguf.tokenizer import GgufTokenizerFiles

    file: Any = checkpoint.files[0]
    return GgufTokenizerFiles(file.path, file)


def _listed(folder: Path) -> list[str]:
    """[] where it cannot be read: opening it gives the error."""
    try:
        return os.listdir(folder)
    except OSError:
        return []


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


def find_source(
    source: str | os.PathLike[str], revision: str = "main", file: str | None = None
) -> Path:
    """A file itself, the first file of a model in GGUF, else as `find_folder`."""
    if isinstance(source, str):
        source = expand_user(source)
    source, file = split_file(source, file)
    if os.path.isfile(source):
        return Path(source)
    folder = find_folder(source, revision, file=file)[0]
    chosen = choose_gguf(folder, file)
    return folder if chosen is None else folder / chosen


def model_tensors(
    source: "Model | str | os.PathLike[str]",
    format: str = "csv",
    part: str = "values",
    file: str | None = None,
) -> Iterator[Tensor]:
    """Every tensor of a model, a folder, a repo or a file, in the order of the data. `part` of a
    quantised one: "values", "codes", "scales", or "stored": the tensors of its files as they are.
    `file` as of `load`.

    Those of an open model are of the files that it opened, whatever their paths name now.
    ArgumentError when it is closed; FileChangedError.
    """
    weights: object
    if not isinstance(source, (str, os.PathLike)):
        if file is not None:
            raise ArgumentError(
                f"file is for a folder or a repo, not for {printable(repr(source), 60)}"
            )
        weights = getattr(source, "weights", None)
    else:
        path = whole_path(find_source(source, file=file))
        if path.name.lower().endswith(SUFFIX):
            from .gguf.opening import open_gguf_weights

            weights = Weights(open_gguf_weights(path.parent, path.name))
        elif os.path.isfile(path):
            return file_tensors((_core.Safetensors(path),), format)
        else:
            weights = Weights(open_weights(path))
    if not isinstance(weights, Weights):
        raise ArgumentError(
            f"a model is a Model, a folder, a file or a repo id, not {shown(source)}"
        )
    if part == "stored" or (part == "values" and not weights._are_renamed):
        return file_tensors(weights.files, format)
    return weight_tensors(weights, format, part)


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
        raise ArgumentError(f"a model is a folder or a repo id, not {shown(source)}")
    if not isinstance(revision, str):
        raise refusal("revision", revision, "a branch, tag or commit")
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
    if not isinstance(source, str) or not _REPO_ID.fullmatch(name) or name.endswith(SUFFIX):
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
    is_file = name.lower().endswith(SUFFIX)
    fact = f"{printable(name) or repr(name)}: no such "
    fact += "file" if is_file else "folder, and not a repo id, which looks like owner/name"
    from .hub.names import repo_in_url

    if inside := repo_in_url(name):
        fact += f"; give {inside}"
        fact += f" with file={printable(os.path.basename(name))} (--file)" if is_file else ""
    elif found := _REPO_FILE.fullmatch(name):
        fact += f"; of a repo give {found[1]} with file={printable(found[2])} (--file)"
    elif found := _REPO_TAG.fullmatch(name):
        fact += f"; give {found[1]} with file=*{found[2]}* (--file)"
    return FileError(fact, errno.ENOENT, name)


def _not_a_folder(name: str) -> FileError | UnsupportedError:
    shown = printable(name)
    if name.lower().endswith(_OTHER_FORMATS):
        return UnsupportedError(
            f"{shown}: only safetensors can be read; give the folder of a model that has them"
        )
    if not os.path.exists(name):
        return FileError(f"{shown}: is a link that leads to no file", errno.ENOENT, name)
    if name.lower().endswith(SUFFIX):
        return FileError(f"{shown}: is not a regular file", errno.EINVAL, name)
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
