"""What is public: every name that a program may rely on, each with a docstring, and no other in docs and examples.

tests/data/surface.txt is the list: names with the names of their parameters, and the members of public classes and of
the classes that public calls return. A line that disappears or changes breaks programs: CONTRIBUTING.md says what that
takes. `python tests/test_surface.py` writes the list anew.
"""

import ast
import importlib
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import llamaprobe as lp

REPO = Path(__file__).parent.parent
LIST = Path(__file__).parent / "data" / "surface.txt"
MODULES = ("hub", "offline", "plot", "ray", "reference")
# Classes of objects that public calls return: their members are public, to construct them is not.
RETURNED = (
    "checkpoint.quantization.Quantization checkpoint.weights.Weight checkpoint.weights.Weights config.Config "
    "config.Layer data.reading.Batch "
    "data.reading.Harvest data.shard.ShardInfo edits.edit.At edits.edits.Place edits.edits.Selection edits.index.Span "
    "families.rope.Rope perf.machine.Kernel perf.profile.Profile perf.profile.Stage plan.Plan plan.Step plan.Value "
    "points.Point prompts.tokenizer.Chat stats.stats.Stats comparison.First comparison.Difference"
).split()
# Classes that programs make objects of; the others are made by functions.
CONSTRUCTED = ("Cancel", "Edits", "Sample", "ray.Worker")
DOCUMENTS = sorted([*REPO.glob("docs/**/*.md"), REPO / "README.md"])
EXAMPLES = sorted(REPO.glob("examples/*.py"))


def own_classes(cls: type) -> Iterator[type]:
    """The class and its bases, as far as they are this package's and not public themselves."""
    known = {getattr(lp, name) for name in lp.__all__ if inspect.isclass(getattr(lp, name))} - {cls}
    return (each for each in cls.__mro__ if each.__module__.startswith("llamaprobe.") and each not in known)


def fields(cls: type) -> dict[str, bool]:
    """Public attributes that a class or its __init__ annotates -> whether a docstring follows."""
    found: dict[str, bool] = {}
    for each in own_classes(cls):
        (node,) = ast.parse(textwrap.dedent(inspect.getsource(each))).body
        assert isinstance(node, ast.ClassDef)
        init = [one.body for one in node.body if getattr(one, "name", "") == "__init__"]  # type: ignore[attr-defined]
        for body in (node.body, *init):
            for statement, after in zip(body, [*body[1:], None], strict=True):
                targets = getattr(statement, "targets", [getattr(statement, "target", None)])
                is_text = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
                for target in targets:
                    is_own = isinstance(target, ast.Attribute) and ast.unparse(target.value) == "self"
                    name = getattr(target, "attr" if is_own else "id", "_")
                    if issubclass(cls, OSError) and hasattr(OSError, name):
                        continue
                    if (is_own or body is node.body) and not name.startswith("_"):
                        found[name] = found.get(name, False) or is_text
    return found


def shown(name: str, value: object) -> str:
    """A callable with the names of its parameters, a class with its bases."""
    if inspect.isclass(value) and name not in CONSTRUCTED:
        # Exception, BaseException and object are left out
        bases = [each.__name__ for each in value.__mro__[1:-3]]
        public = ", ".join(each for each in bases if not each.startswith("_"))
        return f"{name} < {public}" if issubclass(value, Exception) and public else name
    if not callable(value):
        return name
    try:
        parameters = inspect.signature(value).parameters.values()
    except ValueError:
        return name
    words, is_keyword = [], False
    for each in parameters:
        if each.name == "self" or each.name.startswith("_"):
            continue
        if each.kind is each.KEYWORD_ONLY and not is_keyword:
            words.append("*")
            is_keyword = True
        prefix = {each.VAR_POSITIONAL: "*", each.VAR_KEYWORD: "**"}.get(each.kind, "")
        is_keyword |= each.kind is each.VAR_POSITIONAL
        words.append(prefix + each.name)
    return f"{name}({', '.join(words)})"


def members(cls: type) -> dict[str, Any]:
    """Public methods and properties of this package's own classes, in the order of their names."""
    names = {name for each in own_classes(cls) for name in vars(each) if not name.startswith("_")}
    values = {name: inspect.getattr_static(cls, name) for name in sorted(names)}
    return {n: v for n, v in values.items() if callable(getattr(cls, n, None)) or isinstance(v, property)}


def public() -> dict[str, Any]:
    """Every public name but for members -> its value."""
    found: dict[str, Any] = {name: getattr(lp, name) for name in lp.__all__}
    for module in MODULES:
        found[module] = getattr(lp, module)
        own = {f"{module}.{name}": getattr(found[module], name) for name in found[module].__all__}
        found |= {name: value for name, value in own.items() if value not in vars(lp).values()}
    for path in RETURNED:
        module, _, name = path.rpartition(".")
        found[path] = getattr(importlib.import_module(f"llamaprobe.{module}"), name)
    return found


def lines() -> list[str]:
    found = []
    for name, value in public().items():
        found.append(shown(name, value))
        if inspect.isclass(value):
            own = {field: field for field in fields(value)}
            own |= {each: shown(each, getattr(value, each)) for each in members(value)}
            found += [f"{name}.{each}" for each in own.values()]
    return sorted(set(found))


def test_the_public_names_are_those_of_the_list():
    recorded = LIST.read_text().splitlines()
    gone, new = sorted(set(recorded) - set(lines())), sorted(set(lines()) - set(recorded))
    assert not gone, f"these are public; see Deprecation in CONTRIBUTING.md: {gone}"
    assert not new, f"run python tests/test_surface.py, if these are to be public: {new}"


def test_public_modules_say_what_is_public():
    for module in (lp, lp.errors, lp.hub.errors, *(getattr(lp, name) for name in MODULES)):
        assert isinstance(module, ModuleType) and len(set(module.__all__)) == len(module.__all__)
        assert all(hasattr(module, name) for name in module.__all__)


def test_every_public_name_has_a_docstring():
    missing = []
    for name, value in public().items():
        if inspect.isclass(value) or inspect.isroutine(value) or inspect.ismodule(value):
            if not (value.__doc__ or "").strip():
                missing.append(name)
        if inspect.isclass(value):
            described = {each for each, has_text in fields(value).items() if has_text}
            missing += [
                f"{name}.{each}"
                for each in members(value)
                if each not in described and not inspect.getdoc(getattr(value, each))
            ]
    assert not missing


def test_every_public_field_is_described():
    """By a docstring after it, or by its name in the docstring of the class."""
    missing = []
    for name, cls in public().items():
        if inspect.isclass(cls):
            said = " ".join(inspect.getdoc(each) or "" for each in own_classes(cls))
            missing += [
                f"{name}.{field}"
                for field, has_text in fields(cls).items()
                if not has_text and not re.search(rf"\b{field}\b", said)
            ]
    assert not missing


# ---- documentation and examples ----


def private_uses(program: str) -> list[str]:
    """Imports and attributes of llamaprobe in a program that are not public."""
    found = []
    package = {"lp", "llamaprobe"}
    for node in ast.walk(ast.parse(program)):
        if isinstance(node, ast.Import):
            names = [each.name for each in node.names if each.name.startswith("llamaprobe.")]
            found += [name for name in names if name.split(".", 1)[1] not in MODULES]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "llamaprobe":
            module = importlib.import_module(node.module or "")
            inside = (node.module or "").partition(".")[2]
            names = dir(lp) if not inside else module.__all__ if inside in (*MODULES, "errors") else []
            found += [f"{node.module}.{each.name}" for each in node.names if each.name not in names]
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.value.id in package and node.attr not in dir(lp):
                found.append(ast.unparse(node))
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) in {f"lp.{m}" for m in MODULES}:
            if node.attr not in getattr(lp, ast.unparse(node.value).partition(".")[2]).__all__:
                found.append(ast.unparse(node))
    return found


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_examples_use_public_names(path: Path):
    assert private_uses(path.read_text()) == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_documents_use_public_names(path: Path):
    text = path.read_text()
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        try:
            assert private_uses(block) == []
        except SyntaxError:  # a piece of a program
            pass
    inline = re.findall(r"(?<![./-])(?<!:: )\b(?:lp|llamaprobe)\.([A-Za-z_]\w*)(?=[(`\[.])", text)
    placeholders = {"NAME"}
    assert sorted({name for name in inline if name not in dir(lp)} - placeholders) == []


def test_a_private_path_is_found():
    assert private_uses("from llamaprobe.files.array import read\n") == ["llamaprobe.files.array.read"]
    assert private_uses("import llamaprobe as lp\nlp.config\nlp.hub.client\nlp.load\n") == [
        "lp.config",
        "lp.hub.client",
    ]
    assert private_uses("import llamaprobe.files\n") == ["llamaprobe.files"]
    assert private_uses("from llamaprobe import offline\nfrom llamaprobe.hub import download\n") == []


# ---- one version ----


def test_the_citation_has_the_version():
    assert f"\nversion: {lp.__version__}\n" in (REPO / "CITATION.cff").read_text()


if __name__ == "__main__":
    LIST.write_text("\n".join(lines()) + "\n")
    sys.exit(0)
