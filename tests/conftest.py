"""Fixtures for all tests."""

import collections
import gc
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings
from torch.nn.modules import module as torch_module

# No deadlines, since machines may be slow. CI runs the same examples every time, so
# that it fails because of changes only; local runs search at random.
settings.register_profile("project", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("project")

os.environ.setdefault("MPLBACKEND", "agg")

# Background jobs of a shell ignore SIGINT, but tests send it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

collect_ignore = ["as_a_user"]  # scripts, which test_as_a_user.py runs

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


N_THREADS = torch.get_num_threads()
TRIED = collections.Counter()


@pytest.fixture(scope="session")
def tried():
    """Count the cases that the tests try, and print the sums at the end."""
    return TRIED


def pytest_sessionfinish(session):
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["tried"] = dict(TRIED)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node, error):
    TRIED.update(getattr(node, "workeroutput", {}).get("tried", {}))


def pytest_terminal_summary(terminalreporter):
    if TRIED:
        terminalreporter.section("tried")
    for name, number in sorted(TRIED.items()):
        terminalreporter.write_line(f"{name}: {number}")


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)
    np.random.seed(0)
    yield
    torch.set_num_threads(N_THREADS)
    if torch_module._global_forward_pre_hooks:
        # An optimizer that a test left between its two steps has registered one. Once
        # the optimizer is deleted, the hook removes itself when a module is called.
        gc.collect()
        torch.nn.Identity()(None)


@pytest.fixture
def eegmat():
    """Folder of the EEGMAT recordings."""
    return _folder("eegmat")


@pytest.fixture
def eeglab():
    """File of EEGLAB's sample recording."""
    return _folder("eeglab") / "eeglab_data.set"


def _folder(name):
    if not (SHARED / name).is_dir():
        pytest.skip(f"the recordings in shared/data/{name} are missing")
    return SHARED / name
