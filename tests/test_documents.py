"""The pages of the repository: every link and every path that a page names exists."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
FOLDERS = ("backends", "benchmarks", "docs", "examples", "renderers", "src", "tests")
PAGES = [
    *ROOT.glob("*.md"),
    *(page for folder in FOLDERS for page in ROOT.joinpath(folder).rglob("*.md")),
]
TEMPLATE = ROOT / "src" / "metriplex" / "template"
LINK = re.compile(r"\]\(([^()\s]+)\)|\bsrc=\"([^\"]+)\"")
PATH = re.compile(rf"(?:{'|'.join(FOLDERS)})/[\w./-]*")


@cache
def prose(page: Path) -> str:
    """The text of a page without its code blocks."""
    text = re.sub(r"^ *```.*?^ *```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)


@cache
def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    titles = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title) for title in titles]
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_every_link_between_pages_leads_somewhere() -> None:
    broken = []
    for page in PAGES:
        for link in ("".join(found) for found in LINK.findall(prose(page))):
            path, _, anchor = link.partition("#")
            target = page.parent / path if path else page
            if re.match(r"\w+:", link):
                continue
            if not target.exists() or (anchor and anchor not in anchors(target)):
                broken.append((str(page.relative_to(ROOT)), link))
    assert broken == []


def test_every_path_that_a_page_names_exists() -> None:
    missing = [
        (str(page.relative_to(ROOT)), token)
        for page in PAGES
        if not page.is_relative_to(TEMPLATE)
        for code in re.findall(r"`([^`]+)`", prose(page))
        for token in code.split()
        if PATH.fullmatch(token) and not (ROOT / token).exists()
    ]
    assert missing == []


def test_the_readme_links_every_page_by_its_title() -> None:
    _, _, index = (ROOT / "README.md").read_text().partition("\n## Read on\n")
    links = {target: title for title, target in re.findall(r"\[([^\]]+)\]\(([^)]+)\)", index)}
    pages = {
        str(page.relative_to(ROOT)): prose(page).partition("\n")[0].removeprefix("# ")
        for page in ROOT.glob("docs/*.md")
    }
    assert {target: links.get(target) for target in pages} == pages


def test_the_map_of_rooms_has_every_room() -> None:
    core = ROOT / "src" / "metriplex"
    rooms = {path.parent.name for path in core.glob("*/__init__.py")} | {TEMPLATE.name}
    rooms |= {path.stem for path in core.glob("*.py")} - {"__init__", "__main__"}
    rows = re.findall(r"^\| \d \|(.*?)\|", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == rooms
