"""Where the tests find what is not code."""

from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
DEPLOY: Final = ROOT / "deploy"
DOCS: Final = ROOT / "docs"
FIXTURES: Final = ROOT / "tests" / "fixtures"
CRD: Final = DEPLOY / "base" / "crd-inferenceautoscalers.yaml"
