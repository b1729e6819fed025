"""The stub library, built once: `pynvml` finds it by its soname, so a second copy in this process would never be asked."""

from pathlib import Path

import pytest

from tests.stub_nvml import stub_nvml


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stub_nvml.build(tmp_path_factory.mktemp("nvml"))
