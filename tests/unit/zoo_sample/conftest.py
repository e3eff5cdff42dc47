"""The sample zoo's own modules are importable as in a job: adapters beside each other, `training` from the zoo folder."""

import sys
from pathlib import Path

import pytest

ZOO = Path(__file__).resolve().parents[3] / "include" / "zoo"
for folder in (ZOO, ZOO / "adapters"):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


@pytest.fixture(scope="session")
def zoo() -> Path:
    return ZOO
