"""What we would offer to torch: each marked test fails until it is fixed."""

import pickle

import torch
from torch.nn.utils import parametrizations, parametrize
from torch.utils._python_dispatch import TorchDispatchMode

from tests.upstream.mark import until_fixed


@until_fixed("torch", "remove models/_pickling.py", RuntimeError)
def test_a_parametrized_layer_can_be_pickled():
    layer = parametrizations.weight_norm(torch.nn.Linear(2, 2))
    pickle.dumps(layer)


@until_fixed("torch", "remove clear_autocast_cache from optim/sam.py")
def test_autocast_casts_a_changed_weight_again():
    layer, x = torch.nn.Linear(3, 1), torch.ones(2, 3)
    with torch.autocast("cpu", torch.bfloat16):
        before = layer(x)
        with torch.no_grad():
            layer.weight.add_(1)
        assert not torch.equal(layer(x), before)


@until_fixed("torch", "remove its entry from docs/limits.rst")
def test_cached_parametrizations_follow_a_changed_weight():
    layer, x = parametrizations.weight_norm(torch.nn.Linear(3, 1)), torch.ones(2, 3)
    with parametrize.cached():
        before = layer(x)
        with torch.no_grad():
            layer.parametrizations.weight.original0.add_(1)
        assert not torch.equal(layer(x), before)


@until_fixed("torch", "simplify amp.scaled_step", RuntimeError)
def test_a_gradient_scaler_takes_a_closure():
    x, scaler = torch.ones(2, requires_grad=True), torch.amp.GradScaler("cpu")
    optimizer = torch.optim.LBFGS([x])

    def closure():
        optimizer.zero_grad()
        loss = x.square().sum()
        scaler.scale(loss).backward()
        return loss

    closure()
    scaler.step(optimizer, closure=closure)


@until_fixed("torch", "give each net its own generator", TypeError)
def test_dropout_takes_a_generator():
    torch.nn.functional.dropout(torch.ones(3), generator=torch.Generator())


class Recorder(TorchDispatchMode):
    """Record the names of the operations that run."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(function.overloadpacket.__name__)
        return function(*args, **(kwargs or {}))


def gradient_of_rfft(grad, n):
    """Give the gradient of rfft(x) for real x of n samples, by a real transform."""
    weights = torch.full(grad.shape[-1:], 0.5)
    weights[0] = 1
    if n % 2 == 0:
        weights[-1] = 1
    return torch.fft.irfft(grad * weights, n, norm="forward")


def test_a_real_transform_gives_the_gradient_of_rfft():
    for n in (8, 9):
        x = torch.randn(2, n, requires_grad=True)
        spectrum = torch.fft.rfft(x)
        grad = torch.randn_like(spectrum)
        (expected,) = torch.autograd.grad(spectrum, x, grad)
        torch.testing.assert_close(gradient_of_rfft(grad, n), expected)


@until_fixed("torch", "let autograd differentiate FFTConvolution")
def test_the_gradient_of_rfft_needs_no_complex_transform():
    spectrum = torch.fft.rfft(torch.randn(2, 100, requires_grad=True))
    with Recorder() as recorder:
        spectrum.backward(torch.ones_like(spectrum))
    assert "_fft_c2c" not in recorder.names
