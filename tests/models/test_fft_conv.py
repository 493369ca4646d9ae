"""FFT convolution compared with torch's convolution."""

import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from braindecode_sam.models._fft_conv import (
    FFTConv2d,
    FFTConvolution,
)

SUITED = {"kernel_size": (1, 5), "padding": "same"}


def make_layer(**options):
    torch.manual_seed(0)
    return torch.nn.Conv2d(3, 4, **(SUITED | options))


def upgraded(layer):
    other = pickle.loads(pickle.dumps(layer))
    other.__class__ = FFTConv2d
    return other


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@given(
    batch=st.integers(1, 3),
    n_in=st.integers(1, 4),
    n_out=st.integers(1, 4),
    n_times=st.integers(1, 60),
    n_taps=st.integers(1, 20),
    dilation=st.integers(1, 5),
    bias=st.booleans(),
)
def test_equals_torch(batch, n_in, n_out, n_times, n_taps, dilation, bias):
    stock = torch.nn.Conv2d(
        n_in, n_out, (1, n_taps), dilation=(1, dilation), padding="same", bias=bias
    ).double()
    assert FFTConv2d.can_replace(stock)
    results = []
    for layer in (stock, upgraded(stock)):
        x = torch.linspace(-1, 1, batch * n_in * n_times, dtype=torch.float64).sin()
        x = x.reshape(batch, n_in, 1, n_times).requires_grad_()
        y = layer(x)
        gradients = torch.autograd.grad((y**3).sum(), [x, *layer.parameters()])
        results.append((y, *gradients))
    torch.testing.assert_close(*results, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("n_times", [7, 9])  # transforms of even and of odd length
def test_derivatives(n_times):
    torch.manual_seed(0)
    x = torch.randn(2, 2, n_times, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, 2, 4, dtype=torch.float64, requires_grad=True)

    def convolve(x, weight):
        return FFTConvolution.apply(x, weight, 2, 3, x.shape[-1])

    torch.autograd.gradcheck(convolve, (x, weight))
    torch.autograd.gradgradcheck(convolve, (x, weight))
    one_by_one, batched = (
        torch.autograd.functional.jacobian(convolve, (x, weight), vectorize=vectorize)
        for vectorize in (False, True)
    )
    torch.testing.assert_close(one_by_one, batched)


CHANGES = {
    "padding_mode": {"padding_mode": "circular"},
    "padding": {"padding": (0, 1)},
    "stride": {"padding": (0, 0), "stride": (1, 2)},
    "groups": {"groups": 3, "weight": (6, 1, 1, 5), "out_channels": 6},
    "taps": {"weight": (4, 3, 1, 2)},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_layer_that_is_changed_later(change):
    layer = make_layer().double()
    fast = upgraded(layer)
    torch.manual_seed(0)
    for changed in (layer, fast):
        for name, value in change.items():
            if name == "weight":
                value = torch.nn.Parameter(torch.ones(value, dtype=torch.float64))
                changed.bias = None
            setattr(changed, name, value)
        if "padding_mode" in change:
            changed._reversed_padding_repeated_twice = [1, 2, 0, 0]
    x = torch.randn(2, 3, 1, 20, dtype=torch.float64)
    assert torch.equal(layer(x), fast(x))


def test_a_patched_convolution_is_called():
    layer = upgraded(make_layer())
    layer._conv_forward = lambda x, weight, bias: x
    x = torch.randn(2, 3, 1, 20)
    assert layer(x) is x


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")
def test_forward_mode_and_function_transforms():
    stock = make_layer().double()
    x = torch.randn(2, 3, 1, 20, dtype=torch.float64)
    for layer in (stock, upgraded(stock)):
        layer.found = [
            torch.func.jvp(layer, (x,), (x,))[1],
            torch.func.vmap(layer)(x[None])[0],
            torch.func.grad(lambda x, layer=layer: layer(x).sum())(x),
        ]
    torch.testing.assert_close(stock.found, layer.found)


def test_the_output_can_be_viewed():
    y = upgraded(make_layer())(torch.randn(2, 3, 1, 20))
    assert y.view(2, -1).shape == (2, 80)


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": (2, 5)},
        {"padding": 2},
        {"padding": 0, "stride": (1, 2)},
        {"padding_mode": "circular"},
        {"out_channels": 3, "groups": 3},
    ],
    ids=str,
)
def test_suits_no_other_convolution(options):
    layer = torch.nn.Conv2d(
        **({"in_channels": 3, "out_channels": 4} | SUITED | options)
    )
    assert not FFTConv2d.can_replace(layer)
    assert not FFTConv2d.can_replace(upgraded(make_layer()))


@pytest.mark.parametrize("case", ["bfloat16", "autocast", "two rows", "empty"])
def test_yields(case):
    stock = make_layer()
    x = torch.randn(2, 3, 2 if case == "two rows" else 1, 20)
    if case == "bfloat16":
        stock, x = stock.bfloat16(), x.bfloat16()
    if case == "empty":
        x = x[:0]
    with torch.autocast("cpu", enabled=case == "autocast"):
        expected, found = stock(x), upgraded(stock)(x)
    assert expected.dtype == found.dtype
    torch.testing.assert_close(expected, found, atol=0, rtol=0)
