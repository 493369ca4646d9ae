"""Fixtures for all tests."""

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
settings.register_profile(
    "project", deadline=None, derandomize="CI" in os.environ, max_examples=50
)
settings.load_profile("project")

os.environ.setdefault("MPLBACKEND", "agg")

# Background jobs of a shell ignore SIGINT, but tests send it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

collect_ignore = ["as_a_user"]  # scripts, which test_as_a_user.py runs

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)
    np.random.seed(0)
    torch.set_num_threads(1)
    yield
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
