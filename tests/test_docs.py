"""The pages beside README.md: their links lead somewhere, the files that they name exist, tables are those of their
CSV files."""

import csv
import re
import runpy
from pathlib import Path

import pytest
from test_layout import FILES

REPO = Path(__file__).parent.parent
PAGES = [*REPO.glob("*.md"), *REPO.glob("docs/**/*.md"), REPO / "llamaprobe/demo/README.md"]
# Files of others: of CPython, of transformers, of a story model; and a placeholder.
FOREIGN = re.compile(r"^Python\.h|tokenization_|chat_template_utils|^llama2\.c|/NAME\.c")
CSV_FILES = sorted(REPO.glob("docs/benchmarks/*.csv"))


def text_of(page: Path) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """What links to the headings of a page are called, as GitHub has it."""
    headings = re.findall(r"^#+ (.+)$", text_of(page), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in headings}


def test_links_resolve():
    seen, broken = 0, []
    for page in PAGES:
        for link in re.findall(r"\]\((?!http)([^)\s]+)\)", text_of(page)):
            path, _, anchor = link.partition("#")
            target = page.parent / path if path else page
            seen += 1
            if not target.exists() or (anchor and anchor not in anchors(target)):
                broken.append(f"{page.name}: {link}")
    assert seen > 30 and broken == []


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_files_named_in_a_page_exist(page):
    pattern = (
        r"(?<![\w./-])((?:csrc|llamaprobe|docs|tests|tools|bench|examples|fuzz)/[\w./-]+\.\w+)"
    )
    missing = {name for name in re.findall(pattern, page.read_text()) if not (REPO / name).exists()}
    assert missing == set()


@pytest.mark.checkout
def test_source_files_named_anywhere_exist():
    """In comments and pages alike, by name alone or by the end of a path."""
    texts = [path for path in FILES if path.suffix in (".c", ".h", ".py", ".md")]
    names = {path.name for path in texts}
    pattern = re.compile(r"(?<![\w./<\"'*{}-])([\w/-]+\.(?:c|h|py|md))\b(?![\w\"'(])")
    seen, missing = 0, []
    for path in texts:
        if path.name in ("speed-log.md", "CHANGELOG.md"):  # of the past
            continue
        for name in pattern.findall(path.read_text()):
            seen += 1
            if name.rpartition("/")[2] not in names and not FOREIGN.search(name):
                missing.append(f"{path.relative_to(REPO)}: {name}")
    assert seen > 300 and missing == []


def test_tests_named_in_a_page_exist():
    named = re.findall(r"\b(test_\w+\.py)::(test_\w+)", "".join(page.read_text() for page in PAGES))
    gone = [
        f"{file}::{name}"
        for file, name in named
        if f"\ndef {name}(" not in (REPO / "tests" / file).read_text()
    ]
    assert len(named) > 30 and gone == []


def test_every_page_is_in_the_readme_or_contributing():
    listed = (REPO / "README.md").read_text() + (REPO / "CONTRIBUTING.md").read_text()
    assert {
        page.name for page in REPO.glob("docs/*.md") if f"docs/{page.name}" not in listed
    } == set()


def test_benchmark_tables_are_those_of_the_csv_files():
    tool = runpy.run_path(str(REPO / "tools/make_benchmarks_doc.py"))
    page = tool["DOC"].read_text()
    assert tool["text"]() == page
    shown = re.findall(r"<!-- table: (\S+) -->", page)
    assert sorted(shown) == [path.name for path in CSV_FILES]


@pytest.mark.parametrize("path", CSV_FILES, ids=[path.name for path in CSV_FILES])
def test_a_csv_file_is_a_table(path):
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    assert len(rows) > 1 and {len(row) for row in rows} == {len(rows[0])} and all(rows[0])
