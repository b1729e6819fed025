"""One version number: what the package says, what manifests and pages name."""

import re
from typing import Any

import pytest
import yaml

from headroom import __version__
from tests.paths import DEPLOY, DOCS, ROOT


def test_the_base_deploys_this_version() -> None:
    (image,) = yaml.safe_load((DEPLOY / "base" / "kustomization.yaml").read_text())["images"]
    assert image["newTag"] == __version__


def test_the_chart_installs_this_version() -> None:
    chart = yaml.safe_load((DEPLOY / "chart" / "Chart.yaml").read_text())
    assert chart["version"] == chart["appVersion"] == __version__


@pytest.mark.parametrize("page", [ROOT / "README.md", DOCS / "install.md"], ids=lambda page: page.name)
def test_pages_name_this_version(page: Any) -> None:
    named = re.findall(r"headroom:(\d+\.\d+\.\d+)|newTag: (\d+\.\d+\.\d+)", page.read_text())
    assert {one or other for one, other in named} == {__version__}


def test_every_dependency_is_pinned_once() -> None:
    names = [line.split("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line]
    assert len(names) == len(set(names)) > 30


def test_the_changelog_says_each_thing_once() -> None:
    """Lines of two branches are both kept when they meet (`.gitattributes`), so sections and entries can come twice."""
    for release in re.split(r"(?m)^## ", (ROOT / "CHANGELOG.md").read_text())[1:]:
        titles = re.findall(r"(?m)^### .*", release)
        assert len(titles) == len(set(titles))
        entries = [" ".join(entry.split()) for entry in re.split(r"(?m)^(?:- |### .*$)", release)]
        assert len([entry for entry in entries if entry]) == len({entry for entry in entries if entry})
