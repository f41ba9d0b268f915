"""llamaprobe._core called directly: it checks every pointer and size that Python gives it."""

import ast
import gc
import os
import resource
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llamaprobe import (
    ArgumentError,
    FileError,
    FormatError,
    Model,
    UnsupportedError,
    _core,
    load,
)
from llamaprobe.families.core import core_arguments

N_POINTS = len(_core.points())
X, LOGITS = 0, N_POINTS - 1
LLAMAS = [point.number for point in Model.points()]


@pytest.fixture
def file(random_checkpoint) -> Path:
    return random_checkpoint() / "model.safetensors"


@pytest.fixture
def core(file: Path) -> _core.Model:
    return _core.Model([_core.Safetensors(file)], **sizes(file))


def sizes(file: Path, **changes: Any) -> dict[str, Any]:
    c = load(file.parent).config
    return core_arguments(c) | changes


def run(
    core: _core.Model,
    ids: Any = (1, 2),
    starts: Any = None,
    points: Any = ((X, (0,)),),
    **more: Any,
):
    ids = np.array(ids, np.int32) if isinstance(ids, tuple) else ids
    starts = [0, len(ids)] if starts is None else starts
    return core.run(ids, starts, points, **({"n_threads": 1} | more))


# ---- the lists ----


def test_points_are_listed_in_order():
    points = _core.points()
    assert points[0] == ("x", "d_model", True) and points[-1] == ("logits", "vocab", False)
    assert len({name for name, _, _ in points}) == N_POINTS
    widths = {"one", "d_model", "heads", "kv", "map", "d_ff", "vocab", "q_norms", "k_norms"}
    assert {width for _, width, _ in points} == widths


def test_the_stub_is_complete():
    stub = ast.parse(Path(_core.__file__).with_name("_core.pyi").read_text())
    kinds = (ast.FunctionDef, ast.ClassDef)
    declared = {node.name: node for node in stub.body if isinstance(node, kinds)}
    numbers = {n.target.id for n in stub.body if isinstance(n, ast.AnnAssign)}
    assert {*declared, *numbers} == {name for name in dir(_core) if not name.startswith("_")}
    for kind in (_core.Safetensors, _core.Model):
        inside = {node.name for node in declared[kind.__name__].body if isinstance(node, kinds)}
        assert inside - {"__init__"} == {name for name in vars(kind) if not name.startswith("_")}


def test_cores_and_memory():
    assert _core.cores() >= 1
    assert _core.memory() is None or _core.memory() > 0


def test_types_cannot_be_changed_or_derived_from():
    for kind in (_core.Safetensors, _core.Model):
        with pytest.raises(TypeError):
            kind.extra = 1
        with pytest.raises(TypeError):
            type("Derived", (kind,), {})


# ---- Safetensors ----


def test_a_file_lists_what_it_holds(file: Path):
    opened = _core.Safetensors(file)
    assert opened.path == str(file) and opened.n_bytes == file.stat().st_size
    assert opened.metadata == {"format": "pt"} and opened.n_ignored == 0
    name, dtype, shape, offset, n_bytes = opened.tensors()[0]
    assert (name, dtype, shape, n_bytes) == ("model.embed_tokens.weight", "BF16", (97, 48), 97 * 96)
    raw = opened.raw(name)
    assert raw.tobytes() == file.read_bytes()[offset : offset + n_bytes]
    assert not raw.flags.writeable and raw.dtype == np.uint8
    opened.check_unchanged()


def test_paths_of_any_kind(file: Path):
    for path in (file, str(file), os.fsencode(file)):
        assert _core.Safetensors(path).path == str(file)


def test_a_folder_descriptor_holds_the_file_in_its_folder(file: Path, monkeypatch, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    fd = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        opened = _core.Safetensors("/not/there/model.safetensors", dir_fd=fd)
        assert opened.path == "/not/there/model.safetensors" and opened.tensors()
    finally:
        os.close(fd)
    with pytest.raises(FileError, match="model.safetensors"):
        _core.Safetensors("model.safetensors", dir_fd=fd)


@pytest.mark.parametrize("path", [None, 3, 1.5, ["a"]])
def test_rejects_what_is_not_a_path(path: Any):
    with pytest.raises(TypeError):
        _core.Safetensors(path)


def test_bad_paths():
    with pytest.raises(ValueError, match="null"):
        _core.Safetensors("a\0b")
    with pytest.raises(FileError, match="No such file"):
        _core.Safetensors("/no/such/file")
    with pytest.raises(TypeError):
        _core.Safetensors()
    for fd in ("x", 1.5):
        with pytest.raises(TypeError):
            _core.Safetensors("x", dir_fd=fd)
    with pytest.raises(ValueError, match="negative|file descriptor"):
        _core.Safetensors("x", dir_fd=-5)


def test_control_characters_of_a_path_are_escaped(tmp_path: Path):
    with pytest.raises(FileError) as caught:
        _core.Safetensors(tmp_path / "a\n\x1b[31m")
    assert "\n" not in str(caught.value) and "\x1b" not in str(caught.value)


@pytest.mark.parametrize("name", ["missing", "", "a\0b", "\ud800", None, 3])
def test_bad_tensor_names(file: Path, name: Any):
    opened = _core.Safetensors(file)
    for read in (opened.read, opened.raw):
        with pytest.raises((ArgumentError, TypeError, UnicodeEncodeError)):
            read(name)


def test_a_dtype_without_float32_values(tmp_path: Path):
    header = b'{"a":{"dtype":"I32","shape":[2],"data_offsets":[0,8]}}'
    file = tmp_path / "ints.safetensors"
    file.write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    opened = _core.Safetensors(file)
    assert opened.raw("a").tolist() == [0] * 8
    with pytest.raises(UnsupportedError, match="I32"):
        opened.read("a")


@pytest.mark.parametrize("shape", ["[]", "[0]", "[2,0,3]", "[1,1]"])
def test_scalars_and_empty_tensors(tmp_path: Path, shape: str):
    n = 4 if "0" not in shape else 0
    header = f'{{"a":{{"dtype":"F32","shape":{shape},"data_offsets":[0,{n}]}}}}'.encode()
    file = tmp_path / "small.safetensors"
    file.write_bytes(len(header).to_bytes(8, "little") + header + np.float32(1.5).tobytes()[:n])
    opened = _core.Safetensors(file)
    values = opened.read("a")
    assert list(values.shape) == eval(shape) and (values == 1.5).all()
    assert opened.raw("a").nbytes == n


# ---- Model ----


@pytest.mark.parametrize(
    "name", ["n_layers", "n_heads", "head_dim", "d_model", "d_ff", "vocab_size", "max_positions"]
)
@pytest.mark.parametrize("value", [0, -1, 2**62, -(2**63)])
def test_sizes_out_of_range(file: Path, name: str, value: int):
    if name == "max_positions" and value > 0:
        return  # a promise that no prompt can break
    with pytest.raises((ArgumentError, FormatError, MemoryError)):
        _core.Model([_core.Safetensors(file)], **sizes(file, **{name: value}))


@pytest.mark.parametrize(
    "changes",
    [
        {"n_kv_heads": 3},
        {"n_kv_heads": 0},
        {"head_dim": 15},
        {"rms_norm_eps": -1.0},
        {"rms_norm_eps": float("nan")},
        {"rotary_dim": 7},
        {"rotary_dim": 18},
        {"logits_divisor": 0.0},
        {"ropes": ((np.zeros(7, np.float32), 1.0, None, 0),)},
        {"ropes": ((np.zeros(8, np.float32), 1.0, np.zeros(0, np.float32), 0),)},
        {"ropes": ()},
        {"ropes": ((np.zeros(8, np.float32), 1.0, None, 0),) * 5},
        {"rope_of": (0, 1, 0)},
        {"rope_of": (0, -2, 0)},
        {"rope_of": (0,)},
        {"windows": ()},
        {"modules": {}},
        {"prefix": "language_model."},
        {"n_layers": 4},
        {"qkv_bias": True},
        {"o_bias": True},
    ],
)
def test_rejects_inconsistent_numbers(file: Path, changes: dict[str, Any]):
    with pytest.raises((ArgumentError, FormatError)):
        _core.Model([_core.Safetensors(file)], **sizes(file, **changes))


@pytest.mark.parametrize("files", [[None], ["path"], [object()], 3, None])
def test_rejects_what_is_not_a_file(file: Path, files: Any):
    with pytest.raises((ArgumentError, TypeError)):
        _core.Model(files, **sizes(file))


def test_no_files_at_all(file: Path):
    with pytest.raises((ArgumentError, FormatError)):
        _core.Model([], **sizes(file))


def test_a_model_copies_inv_freq(file: Path):
    inv_freq = sizes(file)["ropes"][0][0].copy()
    ropes = ((inv_freq, 1.0, None, 0),)
    core = _core.Model([_core.Safetensors(file)], **sizes(file, ropes=ropes))
    before = run(core, points=[(LOGITS, (0,))])[0].copy()
    inv_freq[:] = 0
    assert (run(core, points=[(LOGITS, (0,))])[0] == before).all()


# ---- run ----


def test_arrays_are_rows_of_layers(core: _core.Model):
    x, logits = run(core, points=[(X, [2, 0]), (LOGITS, [0])])
    assert x.shape == (2, 2 * 48) and logits.shape == (1, 2 * 97)
    assert x.dtype == np.float32 and x.flags.c_contiguous and x.flags.writeable
    assert run(core, points=[]) == []


@pytest.mark.parametrize(
    "points",
    [
        [(-1, (0,))],
        [(N_POINTS, (0,))],
        [(2**40, (0,))],
        [(X, (3,))],
        [(X, (-1,))],
        [(X, (2**64,))],
        [(LOGITS, (1,))],
        [(X, (0, 0))],
        [(X, (0,)), (X, (0,))],
        [(X, (0.5,))],
        [(X, None)],
        [(X,)],
        [X],
        [None],
        None,
        [("x", (0,))],
    ],
)
def test_bad_captures(core: _core.Model, points: Any):
    with pytest.raises((ArgumentError, TypeError, OverflowError)):
        run(core, points=points)
    assert run(core)[0].shape == (1, 96)


@pytest.mark.parametrize(
    "starts",
    [
        [],
        [0],
        [0, 1],
        [0, 3],
        [1, 2],
        [0, 2, 1, 2],
        [0, 0, 2],
        [0, 2, 2],
        [0, 2**63, 2],
        [0, -1, 2],
        None,
        [0, "2"],
    ],
)
def test_bad_sequences(core: _core.Model, starts: Any):
    with pytest.raises((ArgumentError, TypeError, OverflowError)):
        core.run(np.array([1, 2], np.int32), starts, [(X, (0,))], n_threads=1)


@pytest.mark.parametrize(
    "ids",
    [
        np.array([1, 97], np.int32),
        np.array([-1, 2], np.int32),
        np.array([-(2**31), 2], np.int32),
        np.zeros(0, np.int32),
        np.zeros((1, 2), np.int32),
        np.zeros(2, np.float32),
        np.array([1, 2**40]),
        np.array(["a", "b"]),
        np.zeros(257, np.int32),
        "text",
        None,
    ],
)
def test_bad_ids(core: _core.Model, ids: Any):
    n = len(ids) if hasattr(ids, "__len__") else 2
    with pytest.raises((ArgumentError, TypeError, ValueError)):
        core.run(ids, [0, n], [(X, (0,))], n_threads=1)


@pytest.mark.parametrize("n_threads", [0, -1, None, "2", 1.5])
def test_bad_threads(core: _core.Model, n_threads: Any):
    with pytest.raises((ArgumentError, TypeError)):
        run(core, n_threads=n_threads)
    with pytest.raises((ArgumentError, TypeError)):
        core.run(np.array([1], np.int32), [0, 1], [(X, (0,))])


def test_a_million_threads_are_only_an_upper_limit(core: _core.Model):
    assert np.array_equal(run(core, n_threads=10**6)[0], run(core)[0])


def test_layer_numbers_that_run_code(core: _core.Model):
    """A sequence that changes while it is read is frozen first."""
    layers = [0, 1]

    class Sly:
        def __index__(self) -> int:
            layers.clear()
            return 2

    layers.append(Sly())
    with pytest.raises((ArgumentError, TypeError)):
        run(core, points=[(X, layers)])
    assert run(core, points=[(X, [0, 1])])[0].shape == (2, 96)


# ---- who keeps what alive ----


def test_arrays_outlive_everything_else(file: Path):
    opened = _core.Safetensors(file)
    core = _core.Model([opened], **sizes(file))
    raw, read = opened.raw("model.norm.weight"), opened.read("model.norm.weight")
    (x,) = run(core)
    part = x[0, 3:7]
    before = part.copy(), raw.tobytes(), read.copy()
    del core, opened, x
    gc.collect()
    assert (part == before[0]).all() and raw.tobytes() == before[1] and (read == before[2]).all()


def test_a_model_keeps_its_files(file: Path):
    core = _core.Model([_core.Safetensors(file)], **sizes(file))
    gc.collect()
    file.unlink()
    assert run(core)[0].shape == (1, 96)


@pytest.mark.linux
def test_a_model_is_freed_with_its_last_reference(file: Path):
    def n_maps() -> int:
        return sum(str(file) in line for line in Path("/proc/self/maps").read_text().splitlines())

    core = _core.Model([_core.Safetensors(file)], **sizes(file))
    (x,) = run(core)
    assert n_maps() > 0
    del core
    gc.collect()
    assert n_maps() == 0 and np.isfinite(x).all()


@pytest.mark.linux
@pytest.mark.skipif("asan" in os.environ.get("LD_PRELOAD", ""), reason="it keeps freed memory")
@pytest.mark.slow
def test_nothing_leaks(file: Path):
    """Resident memory stays flat over opening, running and failing."""

    def once() -> None:
        core = _core.Model([_core.Safetensors(file)], **sizes(file))
        run(core, ids=tuple(range(90)), points=[(p, (0,)) for p in LLAMAS])
        for bad in ([(X, (0, 0))], [(X, (9,))], [None], [(X, (0,)), (N_POINTS, (0,))]):
            with pytest.raises((ArgumentError, TypeError)):
                run(core, points=bad)
        with pytest.raises(ArgumentError):
            run(core, progress=stop)
        with pytest.raises(FileError):
            _core.Safetensors(file / "not")

    def stop(done: int, total: int) -> None:
        raise ArgumentError("stop")

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    for _ in range(20):
        once()
    gc.collect()
    before = resident()
    for _ in range(60):
        once()
    gc.collect()
    assert resident() - before < 4 << 20


def test_exceptions_of_the_progress_callback_propagate(core: _core.Model):
    class Unheard(BaseException):
        pass

    def fail(done: int, total: int) -> None:
        raise Unheard(done, total)

    with pytest.raises(Unheard) as caught:
        run(core, progress=fail)
    assert caught.value.args[0] <= caught.value.args[1]
    with pytest.raises(TypeError):
        run(core, progress="not callable")
    assert run(core)[0].shape == (1, 96)


def test_progress_ends_at_the_total(core: _core.Model):
    seen: list[tuple[int, int]] = []
    run(core, progress=lambda done, total: seen.append((done, total)))
    assert seen and seen[-1][0] == seen[-1][1] > 0
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_the_callback_is_released(core: _core.Model):
    class Callback:
        def __call__(self, done: int, total: int) -> None:
            pass

    callback = Callback()
    gone = weakref.ref(callback)
    run(core, progress=callback)
    del callback
    gc.collect()
    assert gone() is None


def test_every_failed_allocation_is_a_memory_error(file: Path):
    """The n-th allocation of Python's own fails, for every n: no crash, no leak, no half-made object."""
    testcapi = pytest.importorskip("_testcapi")
    numbers = sizes(file)
    ids = np.array([1, 2, 3], np.int32)

    def everything() -> list[np.ndarray]:
        opened = _core.Safetensors(file, mmap=True)
        opened.tensors(), opened.metadata, opened.path, opened.raw("model.norm.weight")
        core = _core.Model([opened], **numbers)
        return core.run(ids, [0, 1, 3], [(X, [2, 0]), (LOGITS, (0,))], n_threads=2)

    expected = everything()
    n, n_failed, n_whole = 1, 0, 0
    while n_whole < 50:  # consecutive: nothing is left to fail
        testcapi.set_nomemory(n, n + 1)
        try:
            result = everything()
        except MemoryError:
            result = None
        finally:
            testcapi.remove_mem_hooks()
        n_whole = 0 if result is None else n_whole + 1
        n_failed += result is None
        n += 1
        assert result is None or all(map(np.array_equal, result, expected))
    assert n_failed > 20
