"""Models built by name, also in processes that do not import this package."""

import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from braindecode import EEGClassifier, EEGRegressor
from sklearn.base import clone
from sklearn.pipeline import make_pipeline

import braindecode_sam
from braindecode_sam.models import _memory

pytestmark = pytest.mark.slow

RNG = np.random.default_rng(0)
X = RNG.normal(size=(12, 4, 150)).astype(np.float32)
Y = RNG.normal(size=12).astype(np.float32)


class Own(EEGRegressor):
    """A net class of a user."""


def make_net(cls=EEGRegressor, module="FastEEGNeX", **options):
    return cls(
        module, optimizer=torch.optim.AdamW, max_epochs=1, batch_size=6, verbose=0,
        train_split=None, **options,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("cls", "name"), [(EEGRegressor, "FastEEGNeX"), (EEGClassifier, "CompactCNN")]
)
def test_a_fresh_process_knows_the_name(cls, name, tmp_path):
    file = tmp_path / "net.pkl"
    file.write_bytes(pickle.dumps(make_pipeline(make_net(cls, name))))
    script = (
        "import pickle, sys; net = pickle.load(open(sys.argv[1], 'rb'))[0];"
        "assert 'braindecode_sam' in sys.modules;"
        "net.set_params(module__n_chans=4, module__n_times=150, module__n_outputs=2);"
        "print(type(net.initialize().module_).__name__)"
    )
    found = subprocess.check_output(
        [sys.executable, "-W", "ignore", "-c", script, file], text=True
    )
    assert found.strip() == name


@pytest.mark.parametrize("cls", [EEGRegressor, Own])
def test_nets_are_pickled_and_copied_as_before(cls):
    for module in ("FastEEGNet", "ShallowFBCSPNet"):
        net = make_net(cls, module)
        net.fit(X, Y)
        again = pickle.loads(pickle.dumps(net))
        assert type(again) is cls
        np.testing.assert_array_equal(net.predict(X), again.predict(X))
        assert clone(net).get_params()["module"] == module


def test_memory_is_kept_only_for_who_builds_a_fast_model():
    script = (
        "import braindecode_sam; from braindecode_sam.models import _memory;"
        "info = _memory.keep_freed_memory.cache_info;"
        "assert info().currsize == 0;"
        "braindecode_sam.FastEEGNet(n_chans=4, n_times=150, n_outputs=1);"
        "assert info().currsize == 1"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True)


@pytest.mark.parametrize(("switch", "asked"), [(None, 1), ("1", 1), ("0", 0)])
def test_the_switch_of_the_memory(switch, asked, monkeypatch):
    sizes = []
    monkeypatch.setattr(_memory.torch, "empty", lambda size, dtype: sizes.append(size))
    monkeypatch.delenv("BRAINDECODE_SAM_KEEP_MEMORY", raising=False)
    if switch is not None:
        monkeypatch.setenv("BRAINDECODE_SAM_KEEP_MEMORY", switch)
    _memory.keep_freed_memory.__wrapped__()
    assert len(sizes) == asked
    assert all(size < _memory.LIMIT for size in sizes)


def test_names_that_are_not_there_are_attribute_errors():
    with pytest.raises(AttributeError, match="has no attribute 'FastDeep4Net'"):
        _ = braindecode_sam.FastDeep4Net
    assert {"make_regressor", "SAM"} <= set(dir(braindecode_sam))
