"""All models take the fast path, although windows in tests are small."""

import pytest


@pytest.fixture(autouse=True)
def _forced(monkeypatch):
    monkeypatch.setenv("BRAINDECODE_SAM_FORCE", "1")


@pytest.fixture
def by_cost(monkeypatch, _forced):
    """Take the path that is estimated to be faster."""
    monkeypatch.delenv("BRAINDECODE_SAM_FORCE")
