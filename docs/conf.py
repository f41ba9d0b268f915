"""The documentation as a site: `make docs`, from these pages and the docstrings."""

import re
from pathlib import Path

import llamaprobe

project = "llamaprobe"
author = copyright = "the llamaprobe authors"
version = release = llamaprobe.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["_build"]
myst_heading_anchors = 3
myst_enable_extensions = ["deflist"]
# Tables and blocks of the pages that are no code of a language that Pygments knows.
highlight_language = "none"

autodoc_default_options = {"members": True, "member-order": "bysource", "undoc-members": False}
autodoc_class_signature = "mixed"
autodoc_typehints = "none"  # the stubs of the package have them; here they would bury the words

html_theme = "furo"
html_title = f"llamaprobe {release}"
html_theme_options = {"navigation_with_keys": True}
html_show_sphinx = False
html_copy_source = False

REPO = Path(__file__).parent.parent


def beyond_docs(app: object, docname: str, source: list[str]) -> None:
    """A link to a file or folder that is not a page: its path is shown instead."""
    here = (REPO / "docs" / docname).parent

    def shown(match: re.Match[str]) -> str:
        target = (here / match[2].partition("#")[0]).resolve()
        if not target.exists() or (target.suffix == ".md" and (REPO / "docs") in target.parents):
            return match[0]
        path = f"`{target.relative_to(REPO)}`"
        return path if match[1].strip("`") in path else f"{match[1]} ({path})"

    source[0] = re.sub(r"\[([^\]]*)\]\(((?!https?:|#)[^)\s]+)\)", shown, source[0])


_ARGUMENT = re.compile(r"(\*{0,2}\w+(?:, \*{0,2}\w+)*): (?=\S)")


def plain_docstring(app: object, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Docstrings are prose with names in backquotes, lists of arguments and indented code, as they are read in a
    terminal; this makes reStructuredText of them."""
    paragraphs = "\n".join(lines).split("\n\n")
    lines[:] = "\n\n".join(map(_paragraph, paragraphs)).split("\n")


def _paragraph(text: str) -> str:
    lines = text.split("\n")
    if all(line.startswith("    ") for line in lines if line):
        return f"::\n\n{text}"
    if any(line.startswith("  ") for line in lines) and not _ARGUMENT.match(lines[0]):
        return "::\n\n" + "\n".join("    " + line for line in lines)
    if not _ARGUMENT.match(lines[0]):
        return _prose(text)
    items: list[str] = []
    for line in lines:
        if _ARGUMENT.match(line) or not items:
            items.append(_ARGUMENT.sub(lambda match: f"**{match[1].replace('*', '')}**: ", line, count=1))
        else:
            items[-1] += " " + line.strip()
    return "\n".join("- " + _prose(item) for item in items)


def _prose(text: str) -> str:
    """Names in backquotes as literals; nothing else but the bold names of arguments is markup."""
    parts = re.split(r"(`[^`]+`|^\*\*\w[\w, ]*\*\*)", text)
    for i, part in enumerate(parts):
        if i % 2 == 0:
            parts[i] = re.sub(r"([*|\\]|_(?!\w))", r"\\\1", part)
        elif part.startswith("`"):
            parts[i] = f"`{part}`"
    return "".join(parts)


# Classes that programs make objects of; the others are made by functions.
CONSTRUCTED = {"llamaprobe.Cancel", "llamaprobe.Edits", "llamaprobe.Sample", "llamaprobe.ray.Worker"}


def hide_constructor(app: object, what: str, name: str, *_: object) -> tuple[str, None] | None:
    return ("", None) if what == "class" and name not in CONSTRUCTED else None


def setup(app: object) -> None:
    app.connect("autodoc-process-signature", hide_constructor)  # type: ignore[attr-defined]
    app.connect("source-read", beyond_docs)  # type: ignore[attr-defined]
    app.connect("autodoc-process-docstring", plain_docstring)  # type: ignore[attr-defined]
