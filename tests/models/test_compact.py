"""CompactCNN and SeparableEEGNet: parameters by hand, training by name."""

import copy
import pickle

import numpy as np
import pytest
import torch
from braindecode import EEGClassifier, EEGRegressor

from braindecode_sam import SAM
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


def test_parameter_counts():
    for n_chans, n_outputs in ((129, 1), (104, 8)):
        shape = {"n_chans": n_chans, "n_outputs": n_outputs, "n_times": 200}
        expected = compact_by_hand(n_chans, n_outputs)
        assert counted(CompactCNN(**shape)) == expected
        for k, p in ((32, 16), (64, 32)):
            model = SeparableEEGNet(**shape, kernel_length=k, n_pointwise=p)
            assert counted(model) == separable_by_hand(n_chans, n_outputs, k, p)


@pytest.mark.parametrize("cls", MODELS)
def test_any_length_and_shape_of_output(cls):
    for n_times in (1, 8, 200, 501):
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


@pytest.mark.parametrize("cls", MODELS)
def test_learns_by_name_and_is_copied_and_pickled(cls):
    options = {"optimizer": SAM, "lr": 0.01, "batch_size": 8, "verbose": 0}
    options["train_split"] = None
    y = X.std(axis=(1, 2)) * 30
    net = EEGRegressor(cls.__name__, max_epochs=15, **options)
    net.fit(X, y - y.mean())
    losses = net.history[:, "train_loss"]
    assert min(losses[-5:]) < losses[0]
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        np.testing.assert_array_equal(other.predict(X), net.predict(X))
    classifier = EEGClassifier(cls.__name__, max_epochs=1, **options)
    classifier.fit(X, (y > y.mean()).astype(int))
    assert classifier.predict(X).shape == (24,)


def test_refuses_sizes():
    shape = {"n_chans": 2, "n_times": 9, "n_outputs": 1}
    for name in ("kernel_length", "n_pointwise"):
        for value, error in ((0, ValueError), (1.5, TypeError)):
            match = f"{name} must be an integer >= 1, got {value}"
            with pytest.raises(error, match=match):
                SeparableEEGNet(**shape, **{name: value})
