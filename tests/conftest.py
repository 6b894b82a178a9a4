"""For all tests: one thread each (tiny models, shared cores), a cache of their own, no decision of one run left to the next."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported

import pytest


@pytest.fixture(autouse=True)
def nothing_decided_before():
    """What one run in this process decided must not reach the processes that the next test starts."""
    _forget()
    yield
    _forget()


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory):
    """Indexes and blocks that tests keep do not go into the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MAE_VLM_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def _forget() -> None:
    for name in [name for name in os.environ if name.startswith("MAE_VLM_DECIDED")]:
        del os.environ[name]
