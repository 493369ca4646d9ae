"""Layers behind the first ones, which speed_up changes too: the FFT, and dropout."""

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode

from braindecode_sam import SAM, speed_up
from tests.models.helpers import computed


def sped_up(layer):
    """A copy of a layer, as speed_up leaves it behind filters over time."""
    model = nn.ModuleList([nn.Conv2d(1, 2, (1, 3)), copy.deepcopy(layer)])
    assert len(speed_up(model)) == 1
    return model[1]


# Convolutions over time


def make_layer(**options):
    torch.manual_seed(0)
    suited = {"kernel_size": (1, 5), "padding": "same"}
    return nn.Conv2d(**({"in_channels": 3, "out_channels": 4} | suited | options))


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@settings(max_examples=60)
@given(
    batch=st.integers(1, 3),
    n_in=st.integers(1, 4),
    n_out=st.integers(1, 4),
    n_times=st.integers(1, 60),
    n_taps=st.integers(1, 20),
    dilation=st.integers(2, 5),
    bias=st.booleans(),
)
def test_fft_convolution_equals_torch(
    batch, n_in, n_out, n_times, n_taps, dilation, bias
):
    stock = nn.Conv2d(
        n_in, n_out, (1, n_taps), dilation=(1, dilation), padding="same", bias=bias
    ).double()
    results = []
    for layer in (stock, sped_up(stock)):
        x = torch.linspace(-1, 1, batch * n_in * n_times, dtype=torch.float64).sin()
        x = x.reshape(batch, n_in, 1, n_times).requires_grad_()
        y = layer(x)
        gradients = torch.autograd.grad((y**3).sum(), [x, *layer.parameters()])
        results.append((y, *gradients))
    torch.testing.assert_close(*results, atol=1e-10, rtol=1e-10)


def test_derivatives_of_the_fft_convolution():
    layer = sped_up(make_layer(kernel_size=(1, 4), dilation=(1, 2), bias=False))

    def convolve(x, weight):
        return torch.func.functional_call(layer, {"weight": weight}, (x,))

    for n_times in (7, 9):  # transforms of even and of odd length
        torch.manual_seed(0)
        x = torch.randn(2, 3, 1, n_times, dtype=torch.float64, requires_grad=True)
        weight = torch.randn(4, 3, 1, 4, dtype=torch.float64, requires_grad=True)
        assert not computed(convolve, x, weight).convolutions
        torch.autograd.gradcheck(convolve, (x, weight))
        torch.autograd.gradgradcheck(convolve, (x, weight))
        one_by_one, batched = (
            torch.autograd.functional.jacobian(convolve, (x, weight), vectorize=how)
            for how in (False, True)
        )
        torch.testing.assert_close(one_by_one, batched)


def test_other_convolutions_stay_as_they_are_also_if_a_layer_becomes_one_later():
    x = torch.randn(2, 3, 2, 20)
    for options in (
        {"kernel_size": (2, 5)},
        {"padding": 2},
        {"padding": 0, "stride": (1, 2)},
        {"padding_mode": "circular"},
        {"out_channels": 3, "groups": 3},
    ):
        stock, fast = make_layer(**options), sped_up(make_layer())
        assert type(sped_up(stock)) is nn.Conv2d
        assert type(fast) is not nn.Conv2d
        vars(fast).update(vars(stock))
        for rows in (x, x[:, :, :1]) if stock.kernel_size == (1, 5) else (x,):
            assert torch.equal(stock(rows), fast(rows))


def test_a_convolution_whose_weight_or_method_is_replaced():
    x = torch.randn(2, 3, 1, 20)
    for name, value in (
        ("weight", nn.Parameter(torch.ones(4, 3, 1, 2))),
        ("_conv_forward", lambda x, weight, bias: 2 * x),
    ):
        stock = make_layer()
        fast = sped_up(stock)
        for layer in (stock, fast):
            setattr(layer, name, value)
        assert torch.equal(stock(x), fast(x))


def test_where_the_fft_is_not_exact_or_not_there_torch_convolves():
    signals = torch.randn(2, 3, 1, 20)
    for x, is_autocast in (
        (signals.bfloat16(), False),
        (signals, True),
        (torch.randn(2, 3, 2, 20), False),
        (signals[:0], False),
    ):
        stock = make_layer().to(x.dtype)
        with torch.autocast("cpu", enabled=is_autocast):
            expected, found = stock(x), sped_up(stock)(x)
        torch.testing.assert_close(expected, found, atol=0, rtol=0)


# Dropout

X = torch.linspace(-1, 1, 6000).reshape(20, 3, 100)


class Draws(TorchFunctionMode):
    """Count how often dropout draws random numbers."""

    number = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.number += func is nn.functional.dropout
        return func(*args, **(kwargs or {}))


def drop(layer, x, state):
    """Output, gradient, and generator afterwards."""
    torch.set_rng_state(state)
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    y = layer(x)
    (y**2).sum().backward()
    return y.detach(), x.grad, torch.get_rng_state()


def assert_drops_like_torch(layer, x, state):
    expected = drop(nn.Dropout(layer.p), x, state)
    assert all(map(torch.equal, expected, drop(layer, x, state)))


def test_same_masks_and_random_numbers_as_torch():
    layer, state = sped_up(nn.Dropout()), torch.get_rng_state()
    assert type(layer).__name__.startswith("Dropout")  # as Monte Carlo dropout asks
    for x in (X.mT, X.mT.contiguous(), X.double(), X, X[:2], X.bfloat16()):
        for p in (0.0, 0.1, 0.73, 1.0):
            layer.p = p
            for _ in range(2):  # drawn, then remembered
                assert_drops_like_torch(layer, x, state)
    layer.inplace = True
    expected = nn.functional.dropout(X, 1.0)
    x = X.clone()
    assert layer(x) is x
    assert torch.equal(x, expected)


def test_a_mask_is_remembered_for_its_state_only():
    layer, state = sped_up(nn.Dropout()), torch.get_rng_state()
    first = drop(layer, X, state)[0]
    with Draws() as draws:
        for copied in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
            assert torch.equal(drop(copied, X, state)[0], first)
        assert draws.number == 2
        assert torch.equal(drop(layer, X, state)[0], first)
        assert draws.number == 2
        assert not torch.equal(layer(X), first)  # the generator has gone on
        assert draws.number == 3


def test_a_step_of_sam_draws_one_mask_and_trains_as_with_dropout_of_torch():
    stock = nn.Sequential(nn.Linear(100, 50), nn.Dropout())
    fast = nn.Sequential(copy.deepcopy(stock[0]), sped_up(stock[1]))
    x = X.reshape(60, 100)
    numbers = []
    for model in (stock, fast):
        torch.manual_seed(0)
        optimizer = SAM(model.parameters(), torch.optim.SGD, lr=0.1)

        def closure(model=model, optimizer=optimizer):
            optimizer.zero_grad()
            loss = model(x).square().mean()
            loss.backward()
            return loss

        with Draws() as draws:
            for _ in range(3):
                optimizer.step(closure)
        numbers.append(draws.number)
    assert numbers == [6, 3]
    assert all(map(torch.equal, stock.parameters(), fast.parameters()))


def within(mode):
    def run(layer):
        with mode():
            layer(X)

    return run


MODES = {
    "evaluation": lambda layer: (layer.eval()(X), layer.train()),
    "inference mode": within(torch.inference_mode),
    "grad": lambda layer: torch.func.grad(lambda x: layer(x).sum())(X),
    "vmap": lambda layer: torch.vmap(layer, randomness="different")(X),
    "torch.compile": lambda layer: torch.compile(layer, backend="eager")(X),
    "fake tensors": within(lambda: FakeTensorMode(allow_non_fake_inputs=True)),
}


@pytest.mark.parametrize("mode", MODES)
def test_masks_of_other_modes_are_not_kept(mode):
    layer, state = sped_up(nn.Dropout()), torch.get_rng_state()
    MODES[mode](layer)
    assert_drops_like_torch(layer, X, state)
