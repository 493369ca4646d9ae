"""FastEEGNeX and FastEEGNet: results, precision, and use in nets."""

import copy
import inspect
import io
import itertools
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from braindecode import EEGClassifier, EEGRegressor
from braindecode.models import EEGNet, EEGNeX

import braindecode_sam
from braindecode_sam import SAM, FastEEGNet, FastEEGNeX
from braindecode_sam.models import FAST
from tests.models.helpers import KINDS, differences, randomized, run, windows

FULL = pytest.mark.full
PAIRS = {"EEGNeX": (EEGNeX, FastEEGNeX), "EEGNet": (EEGNet, FastEEGNet)}


def make_pair(name, *, dtype=torch.float64, seed=0, **options):
    defaults = {"n_chans": 3, "n_times": 100, "n_outputs": 2, "drop_prob": 0.0}
    torch.manual_seed(seed)
    stock, fast = (cls(**(defaults | options)) for cls in PAIRS[name])
    fast.load_state_dict(randomized(stock, seed).state_dict())
    return [model.to(dtype) for model in (stock, fast)]


# Precision, where an offset costs digits

CASES = list(itertools.product(PAIRS, (True, False), KINDS))
PRECISE = [("EEGNeX", True, "offset"), ("EEGNet", True, "common offset")]


@pytest.mark.parametrize(
    ("name", "training", "kind"),
    [c if c in PRECISE else pytest.param(*c, marks=FULL) for c in CASES],
)
def test_float32_errs_no_more_than_twice_as_much_as_stock(name, training, kind):
    errors = {"stock": [], "fast": []}
    for seed in range(7):
        stock, fast = make_pair(name, n_times=150, n_chans=8, seed=seed)
        x = windows(8, 8, 150, seed, kind)
        truth = run(copy.deepcopy(stock).train(training), x)
        for which, model in (("stock", stock), ("fast", fast)):
            found = run(model.float().train(training), x.float())
            errors[which].append(list(differences(truth, found).values()))
    ours, theirs = (np.array(errors[which]) for which in ("fast", "stock"))
    assert np.median(ours.max(1)) <= 2 * np.median(theirs.max(1))


def test_same_initialization_state_and_output_shape():
    for pair in PAIRS.values():
        models = []
        for cls in pair:
            torch.manual_seed(0)
            models.append(cls(n_chans=3, n_times=100, n_outputs=2))
        states = [list(model.state_dict().items()) for model in models]
        for (stock, expected), (fast, found) in zip(*states, strict=True):
            assert stock == fast
            assert torch.equal(expected, found)
        assert models[0].get_output_shape() == models[1].get_output_shape()
        names = [[n for n, _ in model.named_parameters()] for model in models]
        assert names[0] == names[1]


# Use in nets, by name

RNG = np.random.default_rng(0)
X = RNG.normal(size=(16, 3, 100)).astype(np.float32)
Y = RNG.normal(size=16).astype(np.float32)


def fitted():
    net = EEGRegressor(
        "FastEEGNeX", optimizer=SAM, max_epochs=1, batch_size=8, train_split=None,
        verbose=0,
    )  # fmt: skip
    net.fit(X, Y)
    return net


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))]
)
def test_a_fitted_net_is_copied_and_goes_on_alike(copied):
    net = fitted()
    other = copied(net)
    for one in (net, other):
        torch.manual_seed(3)
        one.partial_fit(X, Y[:, None])
    for n, value in net.module_.state_dict().items():
        assert torch.equal(value, other.module_.state_dict()[n])
    again = copied(other)  # a copy can be copied
    np.testing.assert_array_equal(again.predict(X), net.predict(X))


def test_names_that_are_not_there_are_attribute_errors():
    with pytest.raises(AttributeError, match="has no attribute 'FastDeep4Net'"):
        _ = braindecode_sam.FastDeep4Net
    assert {"make_regressor", "SAM"} <= set(dir(braindecode_sam))


@pytest.mark.parametrize("cls", [EEGClassifier, EEGRegressor, EEGNet, EEGNeX])
def test_no_method_of_a_class_of_braindecode_is_replaced(cls):
    for name, method in inspect.getmembers(cls, inspect.isroutine):
        home = inspect.getmodule(inspect.unwrap(method))
        assert home is None or "braindecode_sam" not in home.__name__, name


# In a fresh process


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    """A net by name and a module, and what a fresh process makes of them."""
    folder = tmp_path_factory.mktemp("fresh")
    net, x = fitted(), torch.from_numpy(X)
    model = FastEEGNet(n_chans=3, n_times=100, n_outputs=2).eval()
    torch.save(model, folder / "model.pt")
    torch.save((x, model(x).detach()), folder / "data.pt")
    (folder / "net.pkl").write_bytes(pickle.dumps(net))
    script = Path(__file__).with_name("fresh_process.py")
    environment = os.environ.copy()
    environment.pop("BRAINDECODE_SAM_KEEP_MEMORY", None)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", script, folder], env=environment, text=True,
        capture_output=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return net, json.loads(done.stdout.splitlines()[-1])


def test_a_fresh_process_reads_a_saved_module(fresh):
    assert fresh[1]["model"] == ["FastEEGNet", True]


def test_a_fresh_process_finds_the_model_of_a_net_with_sam_by_name(fresh):
    net, found = fresh
    np.testing.assert_array_equal(found["predicted"], net.predict(X))
    assert found["net"] == "FastEEGNeX"


def test_memory_is_kept_only_for_who_builds_a_fast_model(fresh):
    if "asks" not in fresh[1]:
        pytest.skip("the C library is not glibc 2.33 or newer")
    after_import, switched_off, after_building = fresh[1]["asks"]
    assert after_import
    assert switched_off
    assert not after_building


def test_a_pickled_module_that_is_not_ours_stays_forbidden():
    with pytest.raises(RuntimeError, match="Serialization of parametrized modules"):
        torch.save(EEGNeX(n_chans=3, n_times=100, n_outputs=1), io.BytesIO())


# What braindecode adds to a model


def test_a_fast_model_is_told_to_come_from_here():
    for cls in FAST:
        assert f"from braindecode.models import {cls.__name__}" not in cls.__doc__
        assert inspect.signature(cls) == inspect.signature(cls.__bases__[1])
    for cls in FAST:
        info = cls._hub_mixin_info
        assert info.model_card_data.library_name == "braindecode_sam"
        assert "braindecode.org" not in f"{info.docs_url} {info.repo_url}"


def test_saved_as_pretrained_by_either(tmp_path):
    stock, fast = make_pair("EEGNeX", dtype=torch.float32)
    x = torch.randn(2, 3, 100)
    for one, other in ((stock, fast), (fast, stock)):
        one.save_pretrained(tmp_path)
        again = type(other).from_pretrained(tmp_path)
        assert type(again) is type(other)
        expected = one.eval()(x)
        torch.testing.assert_close(again.eval()(x), expected, rtol=1e-4, atol=1e-5)


def test_a_class_derived_from_a_fast_model():
    class Mine(FastEEGNeX):
        def __init__(self, n_chans, n_times):
            super().__init__(n_chans=n_chans, n_times=n_times, n_outputs=1)

    model = Mine(3, 100).eval()
    assert model(torch.randn(2, 3, 100)).shape == (2, 1)
    assert pickle.loads(pickle.dumps(FastEEGNeX(n_chans=3, n_times=100, n_outputs=1)))
