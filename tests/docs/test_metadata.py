"""What package indexes and repository browsers show: addresses, links, versions."""

from __future__ import annotations

import importlib
import json
import re
import tomllib
from importlib.metadata import distribution
from typing import Any

import pytest

import cyoptim
from tests.support import paths
from tests.support.paths import ROOT, is_left_out

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SOURCE = PROJECT["urls"]["Source"]
# The files that name the address.
NAMED_IN = (
    "README.md",
    "CITATION.cff",
    "docs/install.md",
    "pyproject.toml",
    ".github/ISSUE_TEMPLATE/config.yml",
)
RELATIVE = re.compile(r"\]\((?![a-z]+:)")


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module that makes the README of package indexes."""
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    return importlib.import_module("index_readme")


def test_links_on_an_index_are_absolute(provider: Any) -> None:
    project = {"urls": {"Source": "https://h/o/p"}, "version": "1.2"}
    readme = provider.dynamic_metadata({}, project)["readme"]
    assert readme["content-type"] == "text/markdown"
    assert not RELATIVE.search(readme["text"])
    assert "](https://h/o/p/blob/v1.2/docs/index.md)" in readme["text"]
    relative = (ROOT / "README.md").read_text()
    assert len(re.findall(r"\]\(", readme["text"])) == len(re.findall(r"\]\(", relative)) > 40


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("[a](docs/a.md#b)", "[a](S/blob/T/docs/a.md#b)"),
        ("[`a`, b\nc](docs/a.md)", "[`a`, b\nc](S/blob/T/docs/a.md)"),
        ("[a](#b)", "[a](S/blob/T/README.md#b)"),
        ("![a](b.png)", "![a](S/raw/T/b.png)"),
        ("[a](https://b) <d@e>", "[a](https://b) <d@e>"),
        ("`x[0](y)`", "`x[0](y)`"),
        ("```python\nx[0](y)\n```\n[a](b)", "```python\nx[0](y)\n```\n[a](S/blob/T/b)"),
    ],
)
def test_what_becomes_absolute(text: str, shown: str, provider: Any) -> None:
    assert provider.with_absolute_links(text, "S", "T") == shown


def test_the_package_shows_where_it_comes_from() -> None:
    installed = distribution("cyoptim")
    origin = json.loads(installed.read_text("direct_url.json") or "{}")
    if origin.get("dir_info", {}).get("editable"):
        pytest.skip("an editable installation has the metadata of the day on which it was made")
    urls = dict(line.split(", ", 1) for line in installed.metadata.get_all("Project-URL") or [])
    assert urls == PROJECT["urls"]
    text = installed.metadata["Description"] or installed.metadata.get_payload()
    assert "torch.optim for NumPy" in text
    assert not RELATIVE.search(text)


@pytest.mark.parametrize("name", NAMED_IN)
def test_there_is_one_address(name: str) -> None:
    path = ROOT / name
    if is_left_out(path):
        pytest.skip("a source distribution lacks it")
    found = re.findall(r"https://[\w.]+/[\w-]+/cyoptim\b(?!\.)", path.read_text())
    assert found
    assert {*found} == {SOURCE}


def test_pages_say_whether_there_is_a_release() -> None:
    released = re.search(r"^## \d\S* \(\d", (ROOT / "CHANGELOG.md").read_text(), re.M)
    for name in ("README.md", "docs/install.md", "docs/quick_start.md"):
        says_not = "not released yet" in (ROOT / name).read_text()
        assert says_not == (released is None), name
    if released is None:
        for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
            assert "\n    pip install cyoptim\n" not in page.read_text(), page.name


def test_the_citation_is_of_this_version() -> None:
    text = (ROOT / "CITATION.cff").read_text()
    assert f"version: {cyoptim.__version__}\n" in text
    assert f"license: {PROJECT['license']}\n" in text


def test_a_source_distribution_may_lack_only_what_it_leaves_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pictures, runner = ROOT / "bench/results/adam.png", ROOT / ".ci/run"
    if paths.IS_CHECKOUT:
        assert not is_left_out(pictures)
        assert not is_left_out(runner)
    monkeypatch.setattr(paths, "IS_CHECKOUT", False)
    assert is_left_out(pictures)
    assert is_left_out(runner)
    for name in ("README.md", "bench/results/adam.json", "tests/golden/schedulers.json"):
        assert not is_left_out(ROOT / name), name
