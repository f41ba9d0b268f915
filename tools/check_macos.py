"""Compiles and links the C core, its tests and the extension for macOS, on any system: `make check-macos`.

    pip install ziglang && python tools/check_macos.py [build folder]

The compiler, its headers and linker for macOS come with ziglang. The extension is compiled against NumPy's headers of a
macOS wheel and this Python's own; it is not linked, for its symbols are in the interpreter. Nothing runs: what this
shows is that it compiles without a warning and that no symbol is missing.
"""

import shutil
import subprocess
import sys
import sysconfig
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

TARGETS = {"aarch64": "macosx_14_0_arm64", "x86_64": "macosx_14_0_x86_64"}
WARNINGS = "-Wall -Wextra -Wshadow -Wstrict-prototypes -Wvla -Werror".split()
FLAGS = ["-std=c11", "-O2", "-ffp-contract=off", "-DLP_EMULATED=", "-DLP_NO_UNROLL=", *WARNINGS]


def numpy_headers(folder: Path, platform: str) -> Path:
    """The folder of NumPy's headers from its wheel for a platform."""
    get = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder)]
    subprocess.run([*get, "--only-binary=:all:", f"--platform={platform}", "numpy>=2"], check=True)
    (wheel,) = folder.glob(f"numpy-*{platform}.whl")
    with zipfile.ZipFile(wheel) as archive:
        headers = [name for name in archive.namelist() if "/_core/include/" in name]
        archive.extractall(folder / platform, headers)
    return folder / platform / "numpy" / "_core" / "include"


def python_headers(folder: Path) -> Path:
    """The folder of this Python's headers. Debian's configuration header refuses other systems than Linux: the one that
    it includes takes its place."""
    headers, version = folder / "python", Path(sysconfig.get_path("include"))
    shutil.copytree(version, headers, dirs_exist_ok=True)
    name = Path(sysconfig.get_config_h_filename()).name
    config = version.parent / (sysconfig.get_config_var("MULTIARCH") or "") / version.name / name
    if config.exists():
        shutil.copy(config, headers)
    return headers


def check(cpu: str, folder: Path) -> str:
    zig = [sys.executable, "-m", "ziglang", "cc", "-target", f"{cpu}-macos"]

    def compile_one(source: Path, *more: str) -> str:
        out = folder / cpu / source.with_suffix(".o")
        out.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run([*zig, *FLAGS, *more, "-c", str(source), "-o", str(out)], check=True)
        return str(out)

    def link(test: str) -> None:
        out = folder / cpu / Path(test).stem
        subprocess.run([*zig, test, *core, "-o", str(out)], check=True)

    python = sorted(Path("csrc/python").glob("*.c"))
    sources = [path for path in sorted(Path("csrc").rglob("*.c")) if path not in python]
    tests = sorted(Path("tests/c").glob("test_*.c"))
    others = [Path("tests/c/replay.c"), *sorted(Path("fuzz").glob("fuzz_*.c"))]
    include = [
        f"-isystem{python_headers(folder)}",
        f"-isystem{numpy_headers(folder, TARGETS[cpu])}",
        "-DPy_LIMITED_API=0x030b0000",
    ]
    with ThreadPoolExecutor() as pool:
        core = list(pool.map(compile_one, sources))
        list(pool.map(lambda source: compile_one(source, *include), python))
        list(pool.map(link, pool.map(compile_one, tests)))
        list(pool.map(compile_one, others))  # these are linked with libFuzzer
    n_files = len(core) + len(python) + len(tests) + len(others)
    return f"{cpu}: {n_files} files compiled, {len(tests)} tests linked; nothing ran"


if __name__ == "__main__":
    build = Path(sys.argv[1] if len(sys.argv) > 1 else "build/macos")
    for name in TARGETS:
        print(check(name, build), flush=True)
