"""Builds the C core; everything else about the package is in pyproject.toml.

Switches, by environment: LLAMAPROBE_WERROR=1 (warnings are errors), LLAMAPROBE_DEBUG=1 (-O0 -g),
LLAMAPROBE_SANITIZE=1 (AddressSanitizer and UBSan; or a list for -fsanitize=),
LLAMAPROBE_COVERAGE=1 (gcov), LLAMAPROBE_EMULATED=1 (variants of the kernels for tests: AVX-512 in
plain C).
"""

import os
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from glob import glob

import numpy
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

# The stable ABI: one wheel for every CPython from 3.11 on. Free-threaded builds do not have it.
LIMITED = not sysconfig.get_config_var("Py_GIL_DISABLED")


def on(switch: str) -> str:
    """The value of LLAMAPROBE_<switch>, "" when it is off."""
    value = os.environ.get(f"LLAMAPROBE_{switch}", "")
    return "" if value == "0" else value


compile_args = [
    "-std=c11",
    "-O3",
    "-ffp-contract=off",  # every fused multiply-add is written as one: it decides the bits
    "-fvisibility=hidden",
    "-pthread",
    "-g0",  # CPython's own flags ask for debug data, which would be most of the wheel
    *("-Wall", "-Wextra", "-Wshadow", "-Wstrict-prototypes", "-Wvla"),
]
link_args = ["-pthread"]
define_macros = [("Py_LIMITED_API", "0x030b0000")] if LIMITED else []
if on("WERROR"):
    compile_args += ["-Werror"]
if on("DEBUG"):
    compile_args += ["-O0", "-g3"]
if sanitizers := on("SANITIZE"):
    sanitizers = "address,undefined" if sanitizers == "1" else sanitizers
    flags = [f"-fsanitize={sanitizers}", "-fno-sanitize-recover=all"]
    compile_args += [*flags, "-O1", "-g1", "-fno-omit-frame-pointer"]  # -g takes minutes
    define_macros += [("LP_NO_UNROLL", "")]  # and so do unrolled kernels
    link_args += flags
if on("COVERAGE"):
    compile_args += ["--coverage", "-fprofile-update=atomic", "-O1"]
    define_macros += [("LP_NO_UNROLL", "")]
    link_args += ["--coverage"]

if on("EMULATED"):
    define_macros += [("LP_EMULATED", "")]

# Kernels for CPUs without AVX2: at -O2 they take 0.6 of the time to build, up to twice to run.
QUICK = {"generic.c"}


class BuildExt(build_ext):
    """build_ext that compiles its files side by side, those of QUICK with less optimisation."""

    def build_extension(self, ext: Extension) -> None:
        compile_in_turn = self.compiler.compile

        def compile_one(source: str, extra_postargs: list[str], **options: object) -> list[str]:
            if os.path.basename(source) in QUICK:
                extra_postargs = ["-O2" if flag == "-O3" else flag for flag in extra_postargs]
            return compile_in_turn([source], extra_postargs=extra_postargs, **options)

        def compile_side_by_side(sources: list[str], **options: object) -> list[str]:
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                results = pool.map(lambda source: compile_one(source, **options), sources)
                return [name for names in results for name in names]

        self.compiler.compile = compile_side_by_side
        super().build_extension(ext)


core = Extension(
    "llamaprobe._core",
    sources=sorted(glob("csrc/**/*.c", recursive=True)),
    depends=sorted(glob("csrc/**/*.h", recursive=True)),
    include_dirs=[numpy.get_include()],  # never csrc: its error.h would hide the system's
    define_macros=define_macros,
    libraries=["m"],
    extra_compile_args=compile_args,
    extra_link_args=link_args,
    py_limited_api=LIMITED,
)
options = {"bdist_wheel": {"py_limited_api": "cp311"}} if LIMITED else {}
setup(ext_modules=[core], options=options, cmdclass={"build_ext": BuildExt})
