"""The pages a reader walks: links and anchors lead somewhere, and the program knows their commands."""

import re
import shlex
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from completedp.cli.app import app

REPOSITORY = Path(__file__).parents[1]
PAGES = sorted(
    page.relative_to(REPOSITORY).as_posix()
    for page in (
        *REPOSITORY.glob("*.md"),
        *REPOSITORY.glob("docs/*.md"),
        *REPOSITORY.glob("benchmarks/**/*.md"),
    )
)
LINK = re.compile(r"\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^()\s]+)\)")


def prose(page: Path) -> str:
    """A page without its code, whose brackets are no links."""
    fences_gone = re.sub(
        r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE
    )
    return re.sub(
        r"`[^`\n]*`", lambda code: code[0].replace("[", " ").replace("(", " "), fences_gone
    )


def anchors(page: Path) -> list[str]:
    """The anchors of a page's headings, as GitHub makes them: letters, digits, hyphens, spaces as hyphens."""
    fences_gone = re.sub(
        r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE
    )
    headings = re.findall(r"^#+ +(.+?) *$", fences_gone, flags=re.MULTILINE)
    return ["".join(map(anchored, re.sub(r"[`*]", "", heading).lower())) for heading in headings]


def anchored(character: str) -> str:
    if character == " ":
        return "-"
    category = unicodedata.category(character)
    return character if character == "-" or category[0] in "LM" or category in ("Nd", "Pc") else ""


@pytest.mark.parametrize("name", PAGES)
def test_every_relative_link_of_a_page_leads_somewhere(name: str) -> None:
    page = REPOSITORY / name
    broken = []
    for link in LINK.findall(prose(page)):
        target, _, anchor = link.partition("#")
        if "://" in target:
            continue
        file = (page.parent / target).resolve() if target else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(link)
    assert broken == []


def test_the_lab_books_index_names_every_entry_in_its_order() -> None:
    log = REPOSITORY / "docs" / "log.md"
    index = re.findall(
        r"^\| \d{4}-\d\d-\d\d \|.*?\]\(#(.*?)\)", log.read_text("utf-8"), flags=re.MULTILINE
    )
    entries = [anchor for anchor in anchors(log) if re.match(r"\d{4}-\d\d-\d\d--", anchor)]
    assert index == entries
    assert len(set(entries)) == len(entries)
    days = [entry[:10] for entry in entries]
    assert days == sorted(days, reverse=True)


def commands(page: Path) -> Iterator[list[str]]:
    """The words of each `completedp` command in the page's shell blocks."""
    for block in re.findall(
        r"^```sh\n(.*?)^```$", page.read_text("utf-8"), re.DOTALL | re.MULTILINE
    ):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if "completedp" in words:
                yield words[words.index("completedp") + 1 :]


@pytest.mark.parametrize(
    "name", [page for page in PAGES if page not in ("docs/log.md", "CHANGELOG.md")]
)
def test_the_program_knows_every_command_of_a_page(name: str) -> None:
    """The verbs and the options; the lab book keeps the commands of its day."""
    verbs = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for verb, *words in commands(REPOSITORY / name):
        known = {o for p in verbs[verb].params for o in (*p.opts, *p.secondary_opts)} | {"--help"}
        used = {word.partition("=")[0] for word in words if word.startswith("--")}
        assert used <= known, f"completedp {verb} {' '.join(words)}"


def test_readme_is_short() -> None:
    text = (REPOSITORY / "README.md").read_text("utf-8")
    assert len(text.splitlines()) <= 130
    assert len(text.split()) <= 1000
