"""One table of dialects: the scheduler configurations and admission policies that are shipped say what it says."""

import re
from pathlib import Path

import pytest
import yaml

from headroom.domain.dialects.kai import KAI
from headroom.domain.dialects.table import ANNOTATIONS, COMPANIONS, COUNTS, DEVICES, FAMILIES, GUARDED, SIZES
from headroom.domain.dialects.words import Wishes
from tests.paths import DEPLOY

CONFIGURATIONS = [DEPLOY / "base" / "kube-scheduler.yaml", DEPLOY / "overlays" / "existing-scheduler" / "extender.yaml"]


@pytest.mark.parametrize("path", CONFIGURATIONS, ids=lambda path: path.name)
def test_kube_scheduler_shows_every_resource_and_counts_what_plugins_advertise(path: Path) -> None:
    """R01, R24, K01 (HAMi#1429, HAMi#43): a resource that is not listed leaves its pods pending for ever."""
    (extender,) = yaml.safe_load(path.read_text())["extenders"]
    listed = {entry["name"]: entry["ignoredByScheduler"] for entry in extender["managedResources"]}
    assert listed == dict.fromkeys(GUARDED, True) | dict.fromkeys(DEVICES, False)


def test_the_admission_policy_knows_every_resource_that_asks_for_part_of_a_card() -> None:
    policy = next(yaml.safe_load_all((DEPLOY / "base" / "admission-policy.yaml").read_text()))["spec"]
    asking = {*SIZES, *COUNTS, *(name for name, word in COMPANIONS.items() if word.implies_card)}
    asking -= {count.name for count in COUNTS.values() if count.needs_size}
    (sizes,) = (entry["expression"] for entry in policy["variables"] if entry["name"] == "sizes")
    assert set(re.findall(r"'([^']+)'", sizes)) == asking
    assert asking <= set(re.findall(r"'([^']+)'", policy["matchConditions"][0]["expression"]))


def test_the_admission_policy_turns_every_annotation_that_the_table_says_it_turns() -> None:
    text = (DEPLOY / "base" / "admission-fractions.yaml").read_text()
    for word in KAI.annotations:
        assert f"'{word.name}'" in text
        assert f"'{word.resource}'" in text


def test_no_word_belongs_to_two_families() -> None:
    names = [
        word.name
        for family in FAMILIES
        for words in (family.sizes, family.counts, family.companions, family.annotations)
        for word in words
    ]
    assert len(names) == len(set(names))


def test_every_annotation_has_exactly_one_fate_and_its_example_is_understood() -> None:
    for word in ANNOTATIONS.values():
        assert sum(map(bool, (word.read, word.ignored, word.resource))) == 1, word.name
        if word.read is not None:
            assert word.read(Wishes(), word.example) != Wishes() or word.example == "binpack", word.name
