"""For all tests: one thread each (tiny models, shared cores), a cache of their own, no decision of one run left to the next."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported

import pytest

# files that take long: they go first, so that no process is alone with one when the others have done all
LONG = {
    "test_cli_finetune.py",
    "test_cli_processes.py",
    "test_cli_tune.py",
    "test_configs.py",
    "test_docs.py",
    "test_finetune_sharding.py",
    "test_learners_sharding.py",
    "test_notebook.py",
    "test_prep_shards.py",
    "test_wheel.py",
}


def pytest_configure(config):
    """Files are dealt to several processes in the order of :data:`LONG`, not by their number of tests: long ones often have few."""
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.path.name not in LONG)


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
