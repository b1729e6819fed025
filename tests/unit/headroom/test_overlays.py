"""What older versions of kustomize ask of the overlays, without running them."""

from pathlib import Path

import pytest
import yaml

from tests.paths import DEPLOY

FILES = sorted([*DEPLOY.glob("overlays/*/kustomization.yaml"), *DEPLOY.glob("components/*/kustomization.yaml")])


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.parent.name))
def test_a_patch_that_deletes_names_one_object(file: Path) -> None:
    """kustomize 5.5 and 5.6 end in a panic where one patch deletes several."""
    for patch in yaml.safe_load(file.read_text(encoding="utf-8")).get("patches", ()):
        text = patch["patch"] if "patch" in patch else (file.parent / patch["path"]).read_text(encoding="utf-8")
        if "$patch: delete" in text:
            assert len(list(yaml.safe_load_all(text))) == 1


def test_there_are_such_patches() -> None:
    assert any("$patch: delete" in file.read_text(encoding="utf-8") for file in FILES)
