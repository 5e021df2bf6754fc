"""The README, as the repository's host shows it and as PyPI shows it: what it links to, and what it claims."""

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.pages.test_pages import read_blocks

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
OTHER_HOSTS = {"img.shields.io"}
MAX_WORDS = 900
MAX_EXAMPLE_LINES = 12


class Links(HTMLParser):
    """The addresses in a page: those of its links, and those of its images."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.pages: list[str] = []
        self.images: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "href" and not str(value).startswith("#"):  # as each heading has
                self.pages.append(value or "")
            elif name in {"src", "srcset"}:
                self.images.append(value or "")


@pytest.fixture(scope="module")
def project() -> Any:
    """The metadata of the package, made from pyproject.toml as a build makes them."""
    from hatchling.metadata.core import ProjectMetadata  # here, likewise below: `nox -s matrix` collects this file
    from hatchling.plugin.manager import PluginManager

    return ProjectMetadata(str(ROOT), PluginManager())


@pytest.fixture(scope="module")
def address(project: Any) -> str:
    return str(project.hatch.metadata.hook_config["custom"]["address"])


@pytest.fixture(scope="module")
def description(project: Any) -> Links:
    """The description of the package, rendered as PyPI renders it."""
    from readme_renderer import markdown

    html = markdown.render(project.core.readme)
    assert html is not None
    return Links(html)


def find_source(url: str, address: str) -> Path:
    """Find the file that an address of the documentation is made from."""
    path = url.removeprefix(address).removeprefix("/")
    if path.startswith("_static/"):
        found = [ROOT / "docs" / folder / Path(path).name for folder in ("_static", "pictures")]
    else:
        page = ROOT / "docs" / (path or "index.html")
        found = [page.with_suffix(suffix) for suffix in (".md", ".rst")]
    return next((file for file in found if file.is_file()), found[0])


def test_links_of_the_description(description: Links, address: str) -> None:
    """Every link on the package's page is absolute, and leads to a page or a picture that the documentation has."""
    assert {f"{address}/tutorial.html"} <= set(description.pages)
    assert {f"{address}/_static/run.svg", f"{address}/_static/logo-light.svg"} <= set(description.images)
    for url in description.pages + description.images:
        if url.startswith(f"{address}/"):
            assert find_source(url, address).is_file(), url
        else:
            assert url.startswith("https://"), url
            assert urlsplit(url).hostname in OTHER_HOSTS, url


def test_project_urls(project: Any, address: str) -> None:
    """The project's URLs lead to pages of the documentation."""
    assert {"Documentation", "Changelog"} <= set(project.core.urls)
    for url in project.core.urls.values():
        assert url.startswith(f"{address}/"), url
        assert find_source(url, address).is_file(), url


def test_links_in_the_repository() -> None:
    """Every relative link of the README leads to a file of the repository."""
    from markdown_it import MarkdownIt

    links = Links(MarkdownIt("commonmark", {"html": True}).enable("table").render(README.read_text(encoding="utf-8")))
    relative = [url for url in links.pages + links.images if not urlsplit(url).scheme]
    assert "docs/_static/logo-dark.svg" in relative
    assert [url for url in relative if not (ROOT / url).is_file()] == []


def test_address_is_written_once(address: str) -> None:
    """One line of pyproject.toml changes the address everywhere."""
    files = [*ROOT.glob("*.*"), *(ROOT / ".github").rglob("*.*"), *(ROOT / "docs").rglob("*.*")]
    written = [file for file in files if file.is_file() and "_build" not in file.parts]
    found = [file for file in written if address.encode() in file.read_bytes()]
    assert found == [ROOT / "pyproject.toml"]
    assert found[0].read_text(encoding="utf-8").count(address) == 1


def test_badges(project: Any, description: Links) -> None:
    """What the badges say is what pyproject.toml says."""
    pythons = [each.split()[-1] for each in project.core.classifiers if re.search(r" 3\.\d+$", each)]
    said = {
        f"python-{pythons[0]}_to_{pythons[-1]}-blue",
        f"license-{project.core.license_expression.replace('-', '--')}-blue",
        "types-mypy_strict-blue",
    }
    assert project.config["tool"]["mypy"]["strict"]
    assert project.core.requires_python == f">={pythons[0]}"
    prefix = "https://img.shields.io/badge/"
    assert {url.removeprefix(prefix) for url in description.images if url.startswith(prefix)} == said
    assert f"https://img.shields.io/pypi/v/{project.core.name}" in description.images


def test_release_note(project: Any) -> None:
    """The README says that the version isn't released, as long as that is true."""
    is_unreleased = "isn't released yet" in README.read_text(encoding="utf-8")
    assert is_unreleased == (".dev" in project.version)


def test_readme_is_short() -> None:
    """The README has at most 900 words of prose, and examples that fit on a screen."""
    text = README.read_text(encoding="utf-8")
    blocks = list(read_blocks(text))
    for block in blocks:
        lines = [line for line in block.text.splitlines() if line.strip()]
        assert len(lines) <= MAX_EXAMPLE_LINES, block
    prose = re.sub(r"^```.*?^```$|^    .*?$|<[^>]+>|\]\([^)]*\)", " ", text, flags=re.DOTALL | re.MULTILINE)
    assert 300 < len(re.findall(r"[\w`'.-]+", prose)) <= MAX_WORDS


def test_readme_has_both_commands() -> None:
    """The README's two commands are sessions of the noxfile."""
    blocks = read_blocks(README.read_text(encoding="utf-8"))
    commands = [line.split("#")[0].split() for block in blocks for line in block.text.splitlines()]
    assert ["nox", "-s", "demo"] in commands
    assert ["nox"] in commands
