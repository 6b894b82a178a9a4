"""For all tests: one thread each (tiny models, shared cores), and no decision of one run left to the next."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported

import pytest


@pytest.fixture(autouse=True)
def nothing_decided_before():
    """What one run in this process decided must not reach the processes that the next test starts."""
    os.environ.pop("MAE_VLM_DECIDED", None)
    yield
    os.environ.pop("MAE_VLM_DECIDED", None)
