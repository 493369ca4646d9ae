"""CompactCNN and SeparableEEGNet: parameters by hand, training by name."""

import copy
import pickle

import numpy as np
import pytest
import torch
from braindecode import EEGClassifier, EEGRegressor
from sklearn.model_selection import GroupKFold, cross_validate

from braindecode_sam import SAM, SCORING
from braindecode_sam.models import CompactCNN, SeparableEEGNet

MODELS = [CompactCNN, SeparableEEGNet]
RNG = np.random.default_rng(0)
X = RNG.normal(size=(24, 6, 100)).astype(np.float32)


def counted(model):
    return sum(p.numel() for p in model.parameters())


def compact_by_hand(n_chans, n_outputs):
    blocks = (n_chans * 7 + 1) * 32 + (32 * 5 + 1) * 64 + (64 * 3 + 1) * 128
    norms = 2 * (32 + 64 + 128)
    return blocks + norms + 129 * 64 + 65 * 32 + 33 * n_outputs


def separable_by_hand(n_chans, n_outputs, k, p):
    return 8 * k + 16 + 8 * n_chans + 16 + 8 * p + 2 * p + (p + 1) * n_outputs


@pytest.mark.parametrize(("n_chans", "n_outputs"), [(129, 1), (72, 1), (104, 8)])
def test_parameter_counts(n_chans, n_outputs):
    shape = {"n_chans": n_chans, "n_outputs": n_outputs, "n_times": 200}
    expected = compact_by_hand(n_chans, n_outputs)
    assert counted(CompactCNN(**shape)) == expected
    for k, p in ((32, 16), (64, 32)):
        model = SeparableEEGNet(**shape, kernel_length=k, n_pointwise=p)
        assert counted(model) == separable_by_hand(n_chans, n_outputs, k, p)


@pytest.mark.parametrize("cls", MODELS)
@pytest.mark.parametrize("n_times", [1, 8, 200, 501])
def test_any_length_and_shape_of_output(cls, n_times):
    model = cls(n_chans=5, n_times=n_times, n_outputs=3).eval()
    assert model(torch.randn(4, 5, n_times)).shape == (4, 3)
    assert model.get_output_shape() == (1, 3)


def test_separable_eegnet_sees_more_than_means():
    """Without activations, windows with equal means would have equal outputs."""
    torch.manual_seed(0)
    shape = {"n_chans": 2, "n_times": 64, "n_outputs": 1, "kernel_length": 1}
    model = SeparableEEGNet(**shape).eval()
    x = torch.randn(1, 2, 64)
    other = x.mean(-1, keepdim=True).expand_as(x)
    assert (model(x) - model(other)).abs() > 1e-3
    linear = SeparableEEGNet(**shape, activation=torch.nn.Identity).eval()
    torch.testing.assert_close(linear(x), linear(other))


@pytest.mark.parametrize("name", [cls.__name__ for cls in MODELS])
def test_trained_by_name_copied_and_pickled(name):
    options = {"optimizer": SAM, "max_epochs": 1, "batch_size": 4, "verbose": 0}
    options["train_split"] = None
    y, groups = RNG.normal(size=24).astype(np.float32), np.repeat(np.arange(4), 6)
    scores = cross_validate(
        EEGRegressor(name, **options), X, y, groups=groups, cv=GroupKFold(2),
        scoring=SCORING, error_score="raise", return_estimator=True,
    )  # fmt: skip
    assert np.isfinite(scores["test_neg_nrmse"]).all()
    net = scores["estimator"][0]
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        np.testing.assert_array_equal(other.predict(X), net.predict(X))
    classifier = EEGClassifier(name, **options)
    classifier.fit(X, (y > 0).astype(int))
    assert classifier.predict(X).shape == (24,)


@pytest.mark.parametrize("cls", MODELS)
def test_learns(cls):
    torch.manual_seed(0)
    y = X.std(axis=(1, 2)) * 30
    net = EEGRegressor(
        cls, optimizer=SAM, lr=0.01, max_epochs=40, batch_size=8, train_split=None,
        verbose=0,
    )  # fmt: skip
    net.fit(X, y - y.mean())
    losses = net.history[:, "train_loss"]
    assert min(losses[-5:]) < losses[0]


@pytest.mark.parametrize("name", ["kernel_length", "n_pointwise"])
@pytest.mark.parametrize(("value", "error"), [(0, ValueError), (1.5, TypeError)])
def test_refuses_sizes(name, value, error):
    with pytest.raises(error, match=f"{name} must be an integer >= 1, got {value}"):
        SeparableEEGNet(n_chans=2, n_times=9, n_outputs=1, **{name: value})
