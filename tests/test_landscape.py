"""Loss along directions, against a linear model with a loss in closed form."""

import numpy as np
import pytest
import torch
from braindecode import EEGClassifier, EEGRegressor
from skorch import NeuralNetRegressor

from braindecode_sam.landscape import loss_along, random_direction, sharpness
from braindecode_sam.nets import Classifier
from tests.optim.helpers import assert_same

RNG = np.random.RandomState(0)
X = RNG.standard_normal((10, 3)).astype(np.float32)
Y = RNG.standard_normal((10, 1)).astype(np.float32)
WINDOWS = RNG.standard_normal((6, 4, 128)).astype(np.float32)
TARGETS = np.arange(6, dtype=np.float32)


def linear_net(**options):
    torch.manual_seed(0)
    return NeuralNetRegressor(
        torch.nn.Linear, module__in_features=3, module__out_features=1,
        module__bias=False, batch_size=4, **options,
    ).initialize()  # fmt: skip


def eeg_net(kind=EEGRegressor, n_outputs=1):
    return kind(
        "FastEEGNeX", module__n_chans=4, module__n_times=128, batch_size=4, verbose=0,
        module__n_outputs=n_outputs, max_epochs=1, train_split=None,
    )  # fmt: skip


def state(net):
    return {k: v.clone() for k, v in net.module_.state_dict().items()}


def test_loss_along_a_line_is_that_of_the_formula():
    net = linear_net()
    w = net.module_.weight.detach().numpy().ravel()
    d = np.array([1.0, -2.0, 0.5], dtype=np.float32)
    steps = [-1.5, 0.0, 0.3]
    expected = [np.mean((X @ (w + s * d) - Y.ravel()) ** 2) for s in steps]
    found = loss_along(net, X, Y, [torch.as_tensor(d)[None]], steps)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("rho", [0.05, 2.0])
def test_sharpness_is_that_of_the_formula(rho):
    net = linear_net()
    w = net.module_.weight.detach().numpy().ravel().astype(float)
    residual = X @ w - Y.ravel()
    g = 2 * X.T @ residual / len(X)
    moved_to = w + rho * g / np.linalg.norm(g)
    rise = np.mean((X @ moved_to - Y.ravel()) ** 2) - np.mean(residual**2)
    assert sharpness(net, X, Y, rho) == pytest.approx(rise, rel=1e-4, abs=1e-7)


def test_sharpness_of_a_flat_loss_is_zero():
    net = linear_net()
    torch.nn.init.zeros_(net.module_.weight)
    assert sharpness(net, X, np.zeros_like(Y)) == 0.0
    assert sharpness(net, X, Y, rho=0.0) == 0.0


def test_sharpness_with_frozen_weights_moves_the_others():
    def frozen_but(name):
        net = EEGRegressor(
            "FastEEGNet", module__n_chans=4, module__n_times=150, module__n_outputs=1,
            module__drop_prob=0.0,
        )  # fmt: skip
        torch.manual_seed(0)
        net.initialize()
        for own, p in net.module_.named_parameters():
            p.requires_grad_(name in own)
        return net

    X = np.random.default_rng(0).normal(size=(8, 4, 150)).astype(np.float32)
    y = np.arange(8, dtype=np.float32)[:, None]
    some = sharpness(frozen_but("final"), X, y, rho=0.1)
    assert 0 < some < sharpness(frozen_but(""), X, y, rho=0.1)
    assert sharpness(frozen_but("none of them"), X, y, rho=0.1) == 0


def test_filters_of_a_direction_have_the_norms_of_the_weights():
    net = eeg_net().initialize()
    direction = random_direction(net, random_state=0)
    for param, part in zip(net.module_.parameters(), direction, strict=True):
        if param.ndim < 2:
            assert not part.any()
        else:
            norms = [t.detach().flatten(1).norm(dim=1) for t in (param, part)]
            torch.testing.assert_close(*norms, rtol=1e-5, atol=1e-7)


def test_plain_directions_have_length_one_and_follow_the_seed():
    net = linear_net()
    one, same, other = (
        random_direction(net, normalization="none", random_state=seed)
        for seed in (0, 0, 1)
    )
    assert float(one[0].norm()) == pytest.approx(1)
    assert torch.equal(one[0], same[0])
    assert not torch.equal(one[0], other[0])


def test_weights_and_statistics_are_restored():
    net, data = eeg_net(), (WINDOWS, TARGETS)
    net.fit(*data)
    before = state(net)
    rising = loss_along(net, *data, random_direction(net, random_state=0), [0, 1])
    assert rising[0] != rising[1]
    assert sharpness(net, *data) > 0
    assert_same(net.module_.state_dict(), before)
    assert all(
        p.grad is None or p.grad.isfinite().all() for p in net.module_.parameters()
    )


def test_weights_are_restored_after_an_error():
    net = linear_net()
    before = state(net)

    def fail(module, inputs):
        assert not torch.equal(module.weight, before["weight"])
        raise ZeroDivisionError

    net.module_.register_forward_pre_hook(fail)
    with pytest.raises(ZeroDivisionError):
        loss_along(net, X, Y, [torch.ones(1, 3)], [1.0])
    assert_same(net.module_.state_dict(), before)


def test_targets_may_have_no_column():
    net = eeg_net()
    net.fit(WINDOWS, TARGETS)
    expected = np.mean((net.predict(WINDOWS).ravel() - TARGETS) ** 2)
    for targets in (TARGETS, TARGETS[:, None]):
        found = loss_along(net, WINDOWS, targets, random_direction(net), [0.0])
        assert found[0] == pytest.approx(expected, rel=1e-5)


def test_classifiers_have_landscapes_too():
    codes = np.array([0, 1, 1, 0, 1, 0])
    for kind, y in ((EEGClassifier, codes), (Classifier, np.array(["a", "b"])[codes])):
        net = eeg_net(kind, n_outputs=2).set_params(classes=np.unique(y))
        net.fit(WINDOWS, y)
        expected = -np.log(net.predict_proba(WINDOWS)[range(6), codes]).mean()
        found = loss_along(net, WINDOWS, y, random_direction(net), [0.0])
        assert found[0] == pytest.approx(expected, rel=1e-4)
        assert sharpness(net, WINDOWS, y, rho=0.1) > 0


def test_bad_options_are_named():
    net = linear_net()
    with pytest.raises(
        ValueError, match=r"normalization must be .*'none'.*got 'layer'"
    ):
        random_direction(net, normalization="layer")
    with pytest.raises(ValueError, match=r"rho must be .* got -1"):
        sharpness(net, X, Y, rho=-1)
