"""This project's own rules: who includes whom, what may be where, how long a thing may be."""

import ast
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from platform import machine

import numpy as np
import pytest

REPO = Path(__file__).parent.parent
pytestmark = pytest.mark.checkout
CSRC = REPO / "csrc"

# A folder of csrc includes only files of its own and of folders with a lower number.
LEVELS = {
    "base": 0,
    "sys": 1,
    "io": 2,
    "text": 2,
    "kernels": 2,
    "ops": 3,
    "model": 3,
    "run": 4,
    "stats": 4,
    "python": 5,
}
# So of llamaprobe: a package or a module beside them imports only what has a lower number, also
# within functions. `__init__` may import all: it loads what is public when it is first used.
PYTHON_LEVELS = {
    "errors": -1,
    "log": -1,
    "maths": -1,
    "messages": -1,
    "arguments": 0,
    "files": 1,
    "cancel": 2,
    "families": 2,
    "perf": 2,
    "stderr": 2,
    "views": 2,
    "config": 3,
    "captures": 5,
    "edits": 5,
    "plan": 3,
    "plot": 3,
    "checkpoint": 4,
    "points": 4,
    "prompts": 4,
    "reference": 4,
    "formulas": 5,
    "gguf": 5,
    "hub": 6,
    "origin": 5,
    "source": 7,
    "saved": 8,
    "lens": 9,
    "offline": 9,
    "run": 9,
    "generation": 10,
    "sweeps": 10,
    "model": 11,
    "saved_run": 11,
    "checks": 12,
    "comparison": 12,
    "data": 13,
    "ray": 14,
    "stats": 14,
    "cli": 15,
    "__main__": 16,
}
# In kernels a file includes only files of its own line and of lines above.
KERNEL_LEVELS = (
    ("kernels.h", "parameters.h", "queries.h"),
    ("simd",),
    ("dequant",),
    ("elementwise.h", "gemm"),
    ("softmax.h",),
    ("attention.h",),
    ("variants",),
    ("dispatch.c",),
)
# Compiled once per vector width: variants/variant.h undefines their guards in between.
TEMPLATES = {
    "exp.h",
    "gemv.h",
    "microkernel.h",
    "microkernel_prefetch.h",
    "packing.h",
    "softmax.h",
    "tanh.h",
}
ONE_CPU = {"avx2.h": "x86_64", "avx512.h": "x86_64", "neon.h": "aarch64"}
PYTHON_HEADERS = re.compile(r"<(Python\.h|numpy/|structmember\.h)")
INTRINSICS = re.compile(r"<(\w*intrin|arm_neon|arm_sve|arm_acle)\.h>")
MAY_USE = {("fpenv.h", "<emmintrin.h>")}  # the FP control word, which belongs to no kernel
# Headers of every C compiler; those of the operating system are for csrc/sys and the file map.
STANDARD_HEADERS = re.compile(
    r"<(errno|fenv|float|limits|math|stdarg|stdatomic|stddef|stdint|stdio|stdlib|string|cpuid)\.h>"
)
SYSTEM_MACROS = re.compile(r"_GNU_SOURCE|_POSIX_C_SOURCE|_DARWIN_C_SOURCE|__linux__|__APPLE__")

MAX_FILE = 500
MAX_FUNCTION = 60
MAX_BYTES = 3 << 20

HEAVY = {"requests", "urllib3", "tokenizers", "jinja2", "tqdm", "huggingface_hub", "pyarrow"}
HEAVY |= {"fsspec", "ray"}
HEAVY |= {"matplotlib", "pandas", "xarray"}
NEVER = {"torch", "transformers", "safetensors", "tensorflow", "jax"}
BINARY = {".safetensors", ".npz", ".npy", ".png", ".bin", ".so", ".model"}


def own_files() -> list[Path]:
    """What git has or would add; without git all but what a build leaves."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, cwd=REPO, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        skip = {"build", "dist", "__pycache__"}
        found = [path for path in REPO.rglob("*") if not skip & set(path.relative_to(REPO).parts)]
    else:
        found = [REPO / name.decode() for name in listed.split(b"\0") if name]
    venvs = {config.parent for config in REPO.glob("*/pyvenv.cfg")}
    found = [path for path in found if not venvs & set(path.parents)]
    return sorted(path for path in found if path.is_file())


FILES = own_files()
C_FILES = [path for path in FILES if path.suffix in (".c", ".h")]
CORE_FILES = [path for path in C_FILES if path.is_relative_to(CSRC)]
PYTHON_FILES = [path for path in FILES if path.suffix in (".py", ".pyi")]
PACKAGE = [path for path in PYTHON_FILES if path.is_relative_to(REPO / "llamaprobe")]


def name_of(path: Path) -> str:
    return path.relative_to(REPO).as_posix()


def test_the_lists_are_not_empty():
    assert len(CORE_FILES) > 30 and len(PACKAGE) > 15 and len(FILES) > 60


# ---- C ----


def room_of(path: Path) -> str:
    return path.relative_to(CSRC).parts[0]


def includes(path: Path) -> list[str]:
    pattern = r'^\s*#\s*include\s+(["<][^">]+[">])'
    return re.findall(pattern, path.read_text(), re.MULTILINE)


def test_a_file_includes_only_lower_folders():
    assert {room_of(path) for path in CORE_FILES} == set(LEVELS)
    for path in CORE_FILES:
        room = room_of(path)
        for include in includes(path):
            if include.startswith('"'):
                target = (path.parent / include.strip('"')).resolve()
                assert target.is_file(), f"{name_of(path)}: {include} is not relative to its file"
                other = room_of(target)
                assert other == room or LEVELS[other] < LEVELS[room], f"{name_of(path)}: {include}"


def kernel_level(path: Path) -> int:
    part = path.relative_to(CSRC / "kernels").parts[0]
    return next(level for level, parts in enumerate(KERNEL_LEVELS) if part in parts)


def test_kernels_include_only_lower_levels():
    levels = set()
    for path in CORE_FILES:
        for include in includes(path) if room_of(path) == "kernels" else ():
            target = (path.parent / include.strip('"')).resolve()
            if include.startswith('"') and room_of(target) == "kernels":
                message = f"{name_of(path)}: {include}"
                assert kernel_level(target) <= kernel_level(path), message
                levels.add(kernel_level(path))
    assert len(levels) > 4


def compiles_alone(header: Path) -> str:
    """What the compiler says of a file that holds this header alone, "" for nothing."""
    folders = [sysconfig.get_path("include"), np.get_include()]
    flags = [
        "-std=c11",
        "-D_GNU_SOURCE",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-fsyntax-only",
    ]
    # A header of kernels is the body of a variant: what the table of functions takes is unused.
    flags += [
        "-Wno-unused-function",
        "-Wno-unused-variable",
        "-Wno-unused-const-variable",
    ]
    command = [
        "cc",
        *flags,
        *(f"-I{folder}" for folder in folders),
        "-x",
        "c",
        str(header),
    ]
    return subprocess.run(command, capture_output=True, text=True, check=False).stderr


@pytest.mark.skipif(not shutil.which("cc"), reason="needs a C compiler")
def test_a_header_compiles_alone(tmp_path):
    headers = [path for path in CORE_FILES if path.suffix == ".h"]
    here = [path for path in headers if ONE_CPU.get(path.name, machine()) == machine()]
    assert len(here) > 40
    with ThreadPoolExecutor() as pool:
        errors = dict(zip(here, pool.map(compiles_alone, here), strict=True))
    assert {name_of(path): text for path, text in errors.items() if text} == {}
    broken = tmp_path / "broken.h"
    broken.write_text("static size_t size;\n")  # without <stddef.h>
    assert "size_t" in compiles_alone(broken)


def test_a_c_file_includes_its_own_header_first():
    for path in CORE_FILES:
        header = path.with_name(re.sub(r"(_linux|_macos)?\.c$", ".h", path.name))
        if path.suffix == ".c" and room_of(path) not in ("kernels", "python"):
            assert header.is_file(), name_of(path)
        if path.suffix == ".c" and header.is_file():
            assert includes(path)[0] == f'"{header.name}"', name_of(path)


def test_python_and_intrinsics_have_their_folders():
    for path in CORE_FILES:
        for include in includes(path):
            fact = f"{name_of(path)} includes {include}"
            assert path.parent.name == "python" or not PYTHON_HEADERS.match(include), fact
            allowed = path.parent.name == "simd" or (path.name, include) in MAY_USE
            assert allowed or not INTRINSICS.match(include), fact


def test_the_operating_system_is_called_only_from_sys_and_the_file_map():
    known = (STANDARD_HEADERS, PYTHON_HEADERS, INTRINSICS)
    system_files = 0
    for path in CORE_FILES:
        system = [name for name in includes(path) if name.startswith("<")]
        system = [name for name in system if not any(header.match(name) for header in known)]
        system += SYSTEM_MACROS.findall(path.read_text())
        if room_of(path) == "sys" or name_of(path) == "csrc/io/map.c":
            system_files += bool(system)
        else:
            assert not system, f"{name_of(path)}: {system}"
    assert system_files > 5, "the test sees what it is about"


def test_the_core_never_prints_exits_or_asserts():
    unsafe = r"(printf|puts|perror|exit|_exit|abort|assert|sprintf|strcpy|strcat|gets|alloca)"
    for path in CORE_FILES:
        code = re.sub(r"/\*.*?\*/", "", path.read_text(), flags=re.DOTALL)
        found = re.search(rf"(?<![\w.>]){unsafe}\s*\(", code)
        assert not found, f"{name_of(path)}: {found[0]}"


def test_a_header_is_guarded():
    for path in C_FILES:
        if path.suffix == ".h" and path.name != "variant.h":  # the body of a .c
            guarded = re.search(r"#ifndef (LP_\w+_H)\n#define \1\n", path.read_text())
            assert guarded, name_of(path)


def test_guards_are_undefined_only_where_widths_are_chosen():
    undefined = {
        (path.name, guard.lower())
        for path in C_FILES
        for guard in re.findall(r"#undef LP_(\w+)_H\b", path.read_text())
    }
    templates = {("variant.h", name.removesuffix(".h")) for name in TEMPLATES}
    assert undefined == templates | {("vector.h", "plain")}
    for path in CORE_FILES:
        by_width = re.search(r"^(NO)?INLINE .*\b[TV]\(\w+\)\(.*\{$", path.read_text(), re.MULTILINE)
        assert bool(by_width) == (path.name in TEMPLATES), name_of(path)


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """(name, lines) of each function that begins and ends in column 0, as clang-format has it."""
    head, start = "", 0
    for number, line in enumerate(path.read_text().splitlines()):
        if line == "}" and "(" in head and "=" not in head:
            yield re.search(r"(\w+)\(", head)[1], number - start + 1
        if re.match(r"[A-Za-z_].*[^:]$", line):  # not a label
            head, start = line, number
        elif line.startswith(" ") and not head.endswith("{"):
            head += line


def test_a_function_fits_a_page():
    lengths = {(name_of(path), name): n for path in CORE_FILES for name, n in functions(path)}
    assert ("csrc/run/forward.c", "lp_forward") in lengths and len(lengths) > 150
    assert {key: n for key, n in lengths.items() if n > MAX_FUNCTION} == {}


# ---- Python ----


def imports(path: Path, *, everywhere: bool) -> Iterator[str]:
    """Modules that a file imports: "requests", ".errors"; `everywhere` within functions too."""
    tree = ast.parse(path.read_text())
    hidden = set()
    for node in ast.walk(tree):
        for_types = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        in_function = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and not everywhere
        if for_types or in_function:
            hidden |= {id(inner) for part in node.body for inner in ast.walk(part)}
    for node in ast.walk(tree):
        if id(node) in hidden:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield from (
                (f"{module}{alias.name}" for alias in node.names) if not node.module else (module,)
            )


def test_heavy_imports_wait_until_they_are_needed():
    for path in PACKAGE:
        at_once = {module.split(".")[0] for module in imports(path, everywhere=False)}
        ever = {module.split(".")[0] for module in imports(path, everywhere=True)}
        assert not at_once & HEAVY, name_of(path)
        assert not ever & NEVER, name_of(path)


def resolve(path: Path, module: str) -> str | None:
    """The name of the imported file of the package, None for what is not a file of it."""
    level = len(module) - len(module.lstrip("."))
    if level:
        folder = path.parents[level - 1]
    elif module.split(".")[0] == "llamaprobe":
        folder = REPO
    else:
        return None
    target = folder.joinpath(*module.lstrip(".").split("."))
    for candidate in (target.with_suffix(".py"), target / "__init__.py"):
        if candidate.is_file():
            return name_of(candidate)
    return None


def import_graph() -> dict[str, set[str]]:
    """The files of the package, but for its `__init__`, and those that each imports."""
    return {
        name_of(path): {
            found for module in imports(path, everywhere=True) if (found := resolve(path, module))
        }
        for path in PACKAGE
        if path.suffix == ".py" and path != REPO / "llamaprobe" / "__init__.py"
    }


def test_a_module_imports_only_lower_levels():
    def unit(name: str) -> str:
        return name.split("/")[1].removesuffix(".py")

    graph = import_graph()
    units = {unit(name) for name in graph} - {"demo"}  # data alone
    assert units == set(PYTHON_LEVELS)
    found = {(name, target) for name in graph for target in graph[name]}
    assert len(found) > 250
    wrong = [
        f"{name} imports {target}"
        for name, target in sorted(found)
        if unit(name) != unit(target) and PYTHON_LEVELS[unit(target)] >= PYTHON_LEVELS[unit(name)]
    ]
    assert not wrong, wrong


def test_the_map_shows_every_package():
    text = (REPO / "CONTRIBUTING.md").read_text()
    packages = [path.parent for path in (REPO / "llamaprobe").glob("*/__init__.py")]
    folders = {path.parent for path in (REPO / "csrc").glob("*/*.[ch]")}
    assert len(packages) > 15 and len(folders) > 7
    rows = {name for row in re.findall(r"^\| (`[^|]*`) \|", text, re.M) for name in re.findall(r"`(.*?)`", row)}
    missing = {p.name for p in packages} | {f"csrc/{f.name}" for f in folders}
    assert not missing - rows, missing - rows


def test_imports_have_no_cycle():
    graph = import_graph()
    assert sum(map(len, graph.values())) > 40
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " -> ".join([*way, name])
        if name not in done:
            for target in sorted(graph.get(name, ())):
                visit(target, (*way, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_checks_for_a_file_never_raise():
    """Path.exists and its like raise PermissionError for a folder that may not be searched; those of
    os.path do not, and what opens the file reports it in our words."""
    for path in PACKAGE:
        found = re.search(r"\.(exists|is_file|is_dir|is_symlink)\(\)", path.read_text())
        assert not found, f"{name_of(path)}: {found[0]}"


# ---- all files ----


def test_a_file_is_short():
    lengths = {name_of(path): len(path.read_text().splitlines()) for path in C_FILES + PYTHON_FILES}
    assert {name: n for name, n in lengths.items() if n > MAX_FILE} == {}


def test_a_file_begins_with_a_description():
    for path in C_FILES + PYTHON_FILES:
        text = path.read_text()
        assert not text.strip() or re.match(r'(#!.*\n)?(/\*|r?""")', text), name_of(path)


def test_files_only_mention_the_project():
    unfinished = "|".join(("TO" + "DO", "FIX" + "ME", "X" * 3, "HA" + "CK"))
    places = "|".join(("ro" + "ot/", "home" + r"/\w+/", "work" + r"/\w", "opt" + "/venv"))
    pattern = re.compile(rf"\b({unfinished})\b|(?<![\w.])/({places})")
    for path in FILES:
        if path.suffix not in BINARY:
            found = pattern.search(path.read_text(encoding="utf-8", errors="replace"))
            assert not found, f"{name_of(path)}: {found[0]}"


def test_a_file_is_small_enough_for_git():
    assert {name_of(path) for path in FILES if path.stat().st_size >= MAX_BYTES} == set()


def test_the_license_exists():
    text = (REPO / "LICENSE").read_text()
    assert text.startswith("MIT License") and "the llamaprobe authors" in text
