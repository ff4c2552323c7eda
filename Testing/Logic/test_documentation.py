"""What the README and the documentation name is there: links, headings, pictures, files, commands and options."""

from __future__ import annotations

import importlib
import importlib.util
import re
import shlex
from collections import Counter
from pathlib import Path

import pytest

from BrainDiffLogic.commands import main as command_line
from BrainDiffLogic.images import WRITABLE

CHECKOUT = Path(__file__).resolve().parents[2]
README = CHECKOUT / "README.md"
DOCUMENTATION = sorted((CHECKOUT / "Resources" / "Documentation").glob("*.md"))
PAGES = [README, *DOCUMENTATION]
MOST_WORDS = 1300
FENCE = re.compile(r"^ *```.*?^ *```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[([^\]]*)\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#{1,6} +(.+?) *$", re.MULTILINE)
NAMED_FILE = re.compile(r"(?<![\w/.-])(?:Testing|Resources|BrainDiffLogic|BrainDiffSlicer)/[\w./*-]*[\w/]")
SPAN = re.compile(r"`([^`]+)`")
OPTION = re.compile(r"--[a-z][\w-]*")

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(CHECKOUT).as_posix())


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives to the headings of a page: a second heading of one name gets -1, and so on."""
    seen: Counter[str] = Counter()
    found = set()
    for heading in HEADING.findall(FENCE.sub("", text)):
        slug = re.sub(r"[^\w -]", "", LINK.sub(r"\1", heading).lower()).replace(" ", "-")
        found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
        seen[slug] += 1
    return found


def broken_links(page: Path, text: str) -> list[str]:
    """The relative links of a page whose file is missing, or has no such heading."""
    broken = []
    for _, target in LINK.findall(FENCE.sub("", text)):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        inside = file.is_relative_to(CHECKOUT) and file.exists()
        if not inside or (anchor and anchor not in anchors(text if file == page else file.read_text(encoding="utf-8"))):
            broken.append(target)
    return broken


def commands(text: str) -> list[list[str]]:
    """The words of every ``braindiff`` command of a page, in blocks and between backticks."""
    blocks = FENCE.findall(text)
    lines = [line for block in blocks for line in block.splitlines()[1:-1]] + SPAN.findall(FENCE.sub("", text))
    found = (re.search(r"(?:^|[;&] *|/)braindiff (.+)", line.replace("\n", " ")) for line in lines)
    return [shlex.split(match[1], comments=True) for match in found if match]


def test_the_readme_can_be_read_in_minutes() -> None:
    assert len(README.read_text(encoding="utf-8").split()) <= MOST_WORDS


def test_the_readme_leads_to_every_page() -> None:
    links = {README.parent / target for _, target in LINK.findall(README.read_text(encoding="utf-8"))}
    assert [page.name for page in DOCUMENTATION if page not in links] == []


@pages
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    assert broken_links(page, page.read_text(encoding="utf-8")) == []


@pages
def test_every_file_that_is_named_exists(page: Path) -> None:
    named = set(NAMED_FILE.findall(LINK.sub("", page.read_text(encoding="utf-8"))))
    assert {name for name in named if not list(CHECKOUT.glob(name.rstrip("/")))} == set()


@pages
def test_every_command_and_option_exists(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    unknown = []
    for command, *arguments in commands(page.read_text(encoding="utf-8")):
        if command not in command_line.SUBCOMMANDS:
            unknown.append(command)
            continue
        action = arguments[:1] if command == "models" else []
        with pytest.raises(SystemExit):
            command_line.main([command, *action, "--help"])
        described = set(OPTION.findall(capsys.readouterr().out))
        unknown += [f"{command} {word}" for word in arguments if OPTION.fullmatch(word) and word not in described]
    assert unknown == []


@pages
def test_pages_are_ascii_and_finished(page: Path) -> None:
    assert page.read_bytes().isascii() and b"@@" not in page.read_bytes()


@pytest.mark.parametrize("target", ["missing.md", "#nothing", "../../README.md#nothing", "../../../elsewhere.md"])
def test_a_link_that_leads_nowhere_is_found(target: str) -> None:
    text = f"# A page\n[link]({target}) [another](#a-page) [out](https://www.slicer.org)"
    assert broken_links(DOCUMENTATION[0], text) == [target]


def test_anchors_are_those_of_github() -> None:
    text = "# No trace (experimental)\n```\n# a comment\n```\n## Odd: `rings`, [2nd_try](a.md)\n## Time\n## Time\n"
    assert anchors(text) == {"no-trace-experimental", "odd-rings-2nd_try", "time", "time-1"}


def test_the_extensions_of_an_output_are_those_that_can_be_written() -> None:
    text = (CHECKOUT / "Resources" / "Documentation" / "command-line.md").read_text(encoding="utf-8")
    told = text.partition("`OUT` ends in")[2].partition(". Fill")[0].partition("or is of DICOM")[0]
    assert sorted(re.findall(r"[.][a-z.]*[a-z]", told)) == sorted(WRITABLE)


def test_what_the_experiments_name_in_the_code_is_there() -> None:
    text = (CHECKOUT / "Resources" / "Documentation" / "motion-experiments.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`([a-z_]+)\.(?!py`)(\w+)`", text))
    assert ("joint", "descend") in named
    lost = []
    for module, name in sorted(named):
        place = f"BrainDiffLogic.motion.{module}"
        if not importlib.util.find_spec(place) or not hasattr(importlib.import_module(place), name):
            lost.append(f"{module}.{name}")
    assert lost == []
