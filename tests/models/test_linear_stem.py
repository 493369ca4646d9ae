"""The stem's functions, with any padding, against the convolutions they stand for."""

import copy

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from hypothesis import assume, given
from hypothesis import strategies as st

from braindecode_sam.models._stem.batch_norm import normalizer
from braindecode_sam.models._stem.linear import eegnet_stem, eegnex_stem
from braindecode_sam.models._stem.moments import window_moments

PADS = st.tuples(st.integers(0, 12), st.integers(0, 12))


def make_norm(n, training):
    norm = torch.nn.BatchNorm2d(n, dtype=torch.float64).train(training)
    with torch.no_grad():
        for tensor in (norm.weight, norm.running_var):
            tensor.uniform_(0.5, 2)
        for tensor in (norm.bias, norm.running_mean):
            tensor.uniform_(-1, 1)
    return norm


def leaf(*shape):
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


def assert_same_with_gradients(expected, found, leaves):
    assert expected.shape == found.shape
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=1e-10)
    weights = torch.linspace(-1, 1, expected.numel(), dtype=torch.float64).sin()
    gradients = [
        torch.autograd.grad((y.flatten() * weights).sum(), leaves, retain_graph=True)
        for y in (expected, found)
    ]
    largest = max(g.abs().max() for g in gradients[0])
    for a, b in zip(*gradients, strict=True):
        assert (a - b).abs().max() <= 1e-10 * max(largest, 1)


def assert_same_buffers(norms, others):
    for norm, other in zip(norms, others, strict=True):
        torch.testing.assert_close(
            dict(norm.named_buffers()), dict(other.named_buffers())
        )


@pytest.mark.slow
@given(
    n_times=st.integers(20, 60),
    taps=st.tuples(st.integers(1, 18), st.integers(1, 18)),
    pads=st.tuples(PADS, PADS),
    depth=st.integers(1, 3),
    training=st.booleans(),
    seed=st.integers(0, 99),
)
def test_two_convolutions(n_times, taps, pads, depth, training, seed):
    torch.manual_seed(seed)
    assume(n_times + sum(pads[0]) + sum(pads[1]) >= sum(taps))
    x = torch.randn(3, 2, n_times, dtype=torch.float64)
    w1, w2, spatial = leaf(2, taps[0]), leaf(3, 2, taps[1]), leaf(3 * depth, 2)
    norms = [make_norm(2, training), make_norm(3, training)]
    stock = copy.deepcopy(norms)
    u = stock[0](F.conv2d(F.pad(x[:, None], pads[0]), w1[:, None, None]))
    z = stock[1](F.conv2d(F.pad(u, pads[1]), w2[:, :, None]))
    expected = F.conv2d(z, spatial[:, None, :, None], groups=3)[:, :, 0]
    found = eegnex_stem(
        x,
        (w1, normalizer(norms[0]), pads[0]),
        (w2, normalizer(norms[1]), pads[1]),
        spatial,
        lambda n_lags: window_moments(x, n_lags),
    )
    assert_same_with_gradients(expected, found, [w1, w2, spatial])
    assert_same_buffers(stock, norms)


@pytest.mark.slow
@given(
    n_times=st.integers(20, 60),
    n_taps=st.integers(1, 30),
    pad=PADS,
    depth=st.integers(1, 3),
    training=st.booleans(),
    seed=st.integers(0, 99),
)
def test_one_convolution(n_times, n_taps, pad, depth, training, seed):
    torch.manual_seed(seed)
    assume(n_times + sum(pad) >= n_taps)
    x = torch.randn(3, 2, n_times, dtype=torch.float64)
    w1, spatial = leaf(4, n_taps), leaf(4 * depth, 2)
    norm = make_norm(4, training)
    stock = copy.deepcopy(norm)
    u = stock(F.conv2d(F.pad(x[:, None], pad), w1[:, None, None]))
    expected = F.conv2d(u, spatial[:, None, :, None], groups=4)[:, :, 0]
    found = eegnet_stem(
        x,
        (w1, normalizer(norm), pad),
        spatial,
        lambda n_lags: window_moments(x, n_lags),
    )
    assert_same_with_gradients(expected, found, [w1, spatial])
    assert_same_buffers([stock], [norm])
