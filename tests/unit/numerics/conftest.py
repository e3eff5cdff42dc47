"""These tests also run on Python 3.8 with numpy, pytest and hypothesis alone, without the conftest files above."""

from __future__ import annotations

import numpy as np
import pytest


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20261123)
