"""Builds the extension for Linux on AArch64 and checks its symbols, on any system: `make check-aarch64`.

    pip install ziglang pyelftools numpy 'setuptools>=77' && python tools/check_aarch64.py [build folder]

Nothing runs here; the C tests run on an emulated AArch64 (`make test-aarch64`). The extension must export its init
function alone, and need nothing but the stable ABI of CPython and a glibc no newer than GLIBC.
"""

import os
import subprocess
import sys
from pathlib import Path

from elftools.elf.elffile import ELFFile

GLIBC = (2, 28)
LIBRARIES = {"libc.so.6", "libm.so.6", "libpthread.so.0", "ld-linux-aarch64.so.1"}


def build(folder: Path) -> Path:
    zig = f"{sys.executable} -m ziglang cc -target aarch64-linux-gnu.{GLIBC[0]}.{GLIBC[1]}"
    cc = f"{zig} -Wno-pass-failed"  # of loops that clang does not unroll, which is no fault
    env = os.environ | {"CC": cc, "LDSHARED": f"{zig} -shared", "LLAMAPROBE_WERROR": "1"}
    env["_PYTHON_HOST_PLATFORM"] = "linux-aarch64"
    command = [sys.executable, "setup.py", "-q", "build", "--build-base", str(folder)]
    subprocess.run(command, env=env, check=True)
    (extension,) = folder.glob("lib.*/llamaprobe/_core*.so")
    return extension


def check(extension: Path) -> str:
    with extension.open("rb") as file:
        elf = ELFFile(file)
        assert elf.get_machine_arch() == "AArch64", elf.get_machine_arch()
        symbols = list(elf.get_section_by_name(".dynsym").iter_symbols())
        needed = {tag.needed for tag in elf.get_section_by_name(".dynamic").iter_tags("DT_NEEDED")}
        versions = {
            each.name
            for _, of_library in elf.get_section_by_name(".gnu.version_r").iter_versions()
            for each in of_library
        }
    defined = {each.name for each in symbols if each["st_shndx"] != "SHN_UNDEF" and each.name}
    python = {each.name for each in symbols if each["st_shndx"] == "SHN_UNDEF" and "Py" in each.name}
    numbers = [tuple(map(int, name.removeprefix("GLIBC_").split("."))) for name in versions]
    assert defined == {"PyInit__core"}, defined
    assert needed <= LIBRARIES, needed
    assert max(numbers) <= GLIBC, versions
    newest = ".".join(map(str, max(numbers)))
    return f"exports PyInit__core; needs {len(python)} symbols of CPython, glibc {newest}; nothing ran"


if __name__ == "__main__":
    print(check(build(Path(sys.argv[1] if len(sys.argv) > 1 else "build/aarch64"))))
