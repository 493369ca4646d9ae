"""Layers behind the first ones, which speed_up changes too: the FFT, and dropout."""

import copy
import math
import pickle

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.utils.parametrizations import weight_norm
from torch.overrides import TorchFunctionMode

from braindecode_sam import SAM, FastEEGNet, speed_up
from tests.models.helpers import Computed, computed


def sped_up(layer, **options):
    """A copy of a layer, as speed_up leaves it."""
    layer = copy.deepcopy(layer)
    speed_up(layer, **options)
    return layer


# Convolutions over time


def make_layer(**options):
    torch.manual_seed(0)
    suited = {"kernel_size": (1, 5), "padding": "same"}
    return nn.Conv2d(**({"in_channels": 3, "out_channels": 4} | suited | options))


def of_time(size, time_axis, others):
    """A size for each axis, that of time among others that are equal."""
    return tuple(size if axis == time_axis else others for axis in (2, 3))


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@settings(max_examples=100)
@given(
    batch=st.integers(1, 3),
    n_in=st.integers(1, 4),
    n_out=st.integers(1, 4) | st.none(),
    n_rows=st.integers(1, 3) | st.none(),
    n_times=st.integers(1, 60),
    n_taps=st.integers(2, 20),
    dilation=st.integers(1, 5),
    padding=st.sampled_from(["same", "valid", 0, 1, 9, 30]),
    time_axis=st.sampled_from([2, 3]),
    flags=st.tuples(st.booleans(), st.booleans()),
)
def test_fft_convolution_equals_torch(
    batch, n_in, n_out, n_rows, n_times, n_taps, dilation, padding, time_axis, flags
):
    """Of all channels or each, of signals in one row, several, or none."""
    (bias, is_parametrized), is_text = flags, isinstance(padding, str)
    span = dilation * (n_taps - 1)
    n_padded = {"same": span, "valid": 0}[padding] if is_text else 2 * padding
    assume(n_times + n_padded > span)
    options = {"bias": bias, "groups": n_in if n_out is None else 1}
    shape = (batch, n_in, n_times)
    if n_rows is None:
        cls, sizes = nn.Conv1d, (n_taps, dilation, padding)
    else:
        cls, shape = nn.Conv2d, (batch, n_in, *of_time(n_times, time_axis, n_rows))
        sizes = [of_time(size, time_axis, 1) for size in (n_taps, dilation)]
        sizes.append(padding if is_text else of_time(padding, time_axis, 0))
    kernel_size, dilation, padding = sizes
    stock = cls(
        n_in, n_out or n_in, kernel_size, dilation=dilation, padding=padding, **options
    ).double()
    if is_parametrized:
        weight_norm(stock)
    results = []
    for layer in (stock, sped_up(stock)):
        x = torch.linspace(-1, 1, math.prod(shape), dtype=torch.float64).sin()
        x = x.reshape(shape).requires_grad_()
        with Computed() as operations:
            y = layer(x)
        gradients = torch.autograd.grad((y**3).sum(), [x, *layer.parameters()])
        results.append((y, *gradients))
    assert not operations.convolutions
    torch.testing.assert_close(*results, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("offset", [0.0, 1e2, 1e4])
def test_float32_errs_no_more_than_twice_as_much_as_torch(offset):
    layer = make_layer(in_channels=8, kernel_size=(1, 64), padding="valid")
    x = torch.randn(4, 8, 3, 400) + offset
    true = copy.deepcopy(layer).double()(x.double())
    errors = [(f(x) - true).abs().max() for f in (layer, sped_up(layer))]
    assert errors[1] <= 2 * errors[0]


@pytest.mark.parametrize("groups", [1, 8])
def test_many_signals_do_not_fit_the_cache_at_once(groups):
    layer = make_layer(
        in_channels=8, out_channels=8, kernel_size=(1, 31), groups=groups
    )
    x = torch.randn(20, 8, 30, 1000, requires_grad=True)
    results = []
    for convolution in (layer, sped_up(layer)):
        y = convolution(x)
        gradients = torch.autograd.grad(y.square().mean(), [x, convolution.weight])
        results.append([y, *(g / g.abs().max() for g in gradients)])
    torch.testing.assert_close(*results, atol=1e-5, rtol=1e-5)


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
    for options in (
        {"kernel_size": (2, 5)},
        {"kernel_size": 1},
        {"padding": (1, 2)},
        {"padding": 0, "stride": (1, 2)},
        {"padding": 0, "stride": (2, 1)},
        {"padding_mode": "circular"},
        {"in_channels": 4, "groups": 2},
        {"out_channels": 6, "groups": 3},
    ):
        stock, fast = make_layer(**options), sped_up(make_layer())
        x = torch.randn(2, stock.in_channels, 2, 20)
        assert type(sped_up(stock)) is nn.Conv2d
        assert type(fast) is not nn.Conv2d
        vars(fast).update(vars(stock))
        assert torch.equal(stock(x), fast(x))


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
        (signals[0], False),
        (signals[:0], False),
    ):
        stock = make_layer().to(x.dtype)
        with torch.autocast("cpu", enabled=is_autocast):
            expected, found = stock(x), sped_up(stock)(x)
        torch.testing.assert_close(expected, found, atol=0, rtol=0)


# What code does with layers of any kind

torch.manual_seed(0)  # with other weights, float32's error can exceed the bounds
LAYERS = {
    "ELU": (nn.ELU(), (5000,)),
    "dropout": (nn.Dropout(), (5000,)),
    "one window": (nn.Conv1d(8, 1, 9, padding=4, bias=False), (1, 8, 64)),
    "each channel": (nn.Conv1d(4, 4, 3, padding=2, groups=4, bias=False), (3, 4, 62)),
    "rows": (nn.Conv2d(3, 4, (1, 5)), (2, 3, 6, 20)),
}


def changed_in_place(layer, x):
    y = layer(x)
    y += x.sum()
    return y


def by_keyword(layer, x):
    return layer(input=x)


def made_again(layer, x):
    if not isinstance(layer, (nn.Conv1d, nn.Conv2d)):
        return type(layer)()(x)
    again = type(layer)(
        layer.in_channels, layer.out_channels, layer.kernel_size, groups=layer.groups,
        padding=layer.padding, bias=layer.bias is not None,
    )  # fmt: skip
    again.load_state_dict(layer.state_dict())
    return again(x)


def with_numbers(layer, x):
    layer.stride = layer.dilation = 1
    return layer(x)


def frozen(layer, x):
    return layer.requires_grad_(False)(x)


@pytest.mark.parametrize(
    "way", [changed_in_place, by_keyword, made_again, with_numbers, frozen]
)
@pytest.mark.parametrize("name", LAYERS)
def test_layers_are_used_as_those_of_torch(name, way):
    stock, shape = LAYERS[name]
    results = []
    for layer in (copy.deepcopy(stock), sped_up(stock)):
        torch.manual_seed(0)
        x = torch.randn(shape, requires_grad=True)
        torch.manual_seed(1)
        y = way(layer, x)
        y.square().sum().backward()
        gradients = [p.grad for p in layer.parameters() if p.grad is not None]
        results.append([y, x.grad, *gradients])
    torch.testing.assert_close(*results, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["rows", "each channel", "one window", "ELU"])
def test_gradients_of_several_outputs_at_once(name):
    stock, shape = LAYERS[name]
    results = []
    for layer in (copy.deepcopy(stock), sped_up(stock)):
        torch.manual_seed(0)
        x = torch.randn(shape, requires_grad=True)
        y = layer(x).flatten()[:3]
        inputs = [x, *layer.parameters()]
        results.append(
            torch.autograd.grad(y, inputs, torch.eye(3), None, is_grads_batched=True)
        )
    torch.testing.assert_close(*results, atol=1e-5, rtol=1e-4)


def test_a_graph_of_torch_fx_keeps_the_mode_of_dropout():
    traced = torch.fx.symbolic_trace(nn.Sequential(sped_up(nn.Dropout())))
    assert (traced(X) == 0).any()
    assert torch.equal(traced.eval()(X), X)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
def test_what_torch_refuses_and_other_layouts():
    layer = sped_up(make_layer())
    layer.bias = nn.Parameter(layer.bias.detach().double())
    with pytest.raises(RuntimeError, match="should be the same"):
        layer(torch.randn(2, 3, 1, 20))
    for exact_masks in (True, False):
        dropout = sped_up(nn.Dropout(), exact_masks=exact_masks)
        nested = torch.nested.nested_tensor([torch.ones(2, 30), torch.ones(3, 30)])
        assert dropout(nested).is_nested
        dropout.p = 1.5
        with pytest.raises(ValueError, match="between 0 and 1"):
            dropout(X)


def test_masks_are_drawn_on_the_cpu_whatever_the_default_is():
    layer = sped_up(nn.Dropout(), exact_masks=False)
    with torch.device("meta"):
        y = layer(X)
    assert 0.4 < (y == 0).double().mean() < 0.6


# ELU

VALUES = torch.cat([torch.linspace(-100, 100, 20001), -torch.logspace(-12, 2, 20001)])
VALUES = torch.cat([VALUES, torch.tensor([0.0, -0.0])])
needs_avx512 = pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() != "AVX512",
    reason="torch computes ELU as fast as it should",
)


@needs_avx512
def test_elu_is_that_of_torch_up_to_rounding():
    layer, stock = sped_up(nn.ELU()), nn.ELU()
    assert type(layer) is not nn.ELU
    results = []
    for elu, dtype in ((stock, torch.float64), (layer, torch.float32)):
        x = VALUES.to(dtype).requires_grad_()
        y = elu(x)
        first = torch.autograd.grad(y.square().sum(), x, create_graph=True)[0]
        second = torch.autograd.grad(first.sum(), x)[0]
        results.append([t.detach().double() for t in (y, first, second)])
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, atol=3e-7, rtol=3e-7)
    errors = (results[1][0] - results[0][0])[VALUES.abs() < 1].abs()
    assert errors.max() < torch.finfo(torch.float32).eps / 2
    special = torch.tensor([torch.nan, torch.inf, -torch.inf]).repeat(5000)
    torch.testing.assert_close(layer(special), stock(special), equal_nan=True)


def half(layer, x):
    return layer(x.bfloat16())


def autocast(layer, x):
    with torch.autocast("cpu", torch.bfloat16):
        return layer(x)


def with_a_hook(layer, x):
    layer.register_forward_hook(lambda m, args, y: y + args[0])
    return layer(x)


def with_alpha(layer, x):
    layer.alpha = 0.5
    return layer(x)


def in_place(layer, x):
    layer.inplace = True
    x = x.clone()
    assert layer(x) is x
    return x


def tangent(layer, x):
    return torch.stack(torch.func.jvp(layer, (x,), (x.cos(),)))


def gradients(layer, x):
    return torch.vmap(torch.func.grad(lambda x: layer(x).sum()))(x[:, None])


def exported(layer, x):
    return torch.export.export(layer, (x,)).module()(x)


WAYS = [half, autocast, with_a_hook, with_alpha, in_place, tangent, gradients]
WAYS += [exported, lambda layer, x: torch.compile(layer, backend="eager")(x)]
WAYS += [lambda layer, x: torch.jit.script(layer)(x)]
WAYS += [lambda layer, x: layer(x.double()), lambda layer, x: layer(x[:0])]


@needs_avx512
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # by dynamo
@pytest.mark.parametrize("way", WAYS)
def test_elu_in_other_ways_is_that_of_torch(way):
    stock, fast = (way(f, VALUES[::9]) for f in (nn.ELU(), sped_up(nn.ELU())))
    assert stock.dtype == fast.dtype
    torch.testing.assert_close(fast, stock, equal_nan=True)


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
            for _ in range(3):  # drawn, drawn again, then remembered
                assert_drops_like_torch(layer, x, state)
    layer.inplace = True
    expected = nn.functional.dropout(X, 1.0)
    x = X.clone()
    assert layer(x) is x
    assert torch.equal(x, expected)


def test_a_mask_is_remembered_for_its_state_only():
    layer, state = sped_up(nn.Dropout()), torch.get_rng_state()
    first = drop(layer, X, state)[0]
    drop(layer, X, state)  # now it is known that states are repeated
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
    assert numbers == [6, 4]  # the second pass of the first step draws too
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


# Masks on request


@pytest.mark.parametrize("p", [0.0, 1e-6, 0.1, 0.5, 0.9, 1.0])
def test_fast_masks_have_the_distribution_of_dropout(p):
    layer, n = sped_up(nn.Dropout(p), exact_masks=False), 1_000_003
    torch.manual_seed(0)
    with Draws() as draws:
        y = layer(torch.ones(n, dtype=torch.float64))
    assert draws.number == (p == 0)  # then torch draws nothing
    is_kept = (y > 0).double()
    kept = 1 - round(65536 * p) / 65536
    assert abs(is_kept.mean() - kept) <= 5 * (kept * (1 - kept) / n) ** 0.5
    if kept:
        torch.testing.assert_close(y.max().item(), 1 / kept)
    for distance in range(1, 9):  # some of which share random numbers
        together = (is_kept[distance:] * is_kept[:-distance]).mean()
        assert abs(together - kept**2) <= 5 * (kept * (1 - kept) / n) ** 0.5


@pytest.mark.parametrize("x", [X, X.mT, X.double(), X.bfloat16(), X[:1, 0, :3]])
def test_fast_masks_are_reproducible_and_have_the_right_gradient(x):
    layer, state = sped_up(nn.Dropout(0.3), exact_masks=False), torch.get_rng_state()
    first, again = drop(layer, x, state), drop(layer, x, state)
    assert all(map(torch.equal, first, again))
    other = sped_up(nn.Dropout(0.3), exact_masks=False)
    assert all(map(torch.equal, first, drop(other, x, state)))  # not only remembered
    y, gradient, after = first
    assert not torch.equal(after, state)
    assert y.stride() == drop(nn.Dropout(0.3), x, state)[0].stride()
    torch.testing.assert_close(gradient * x, 2 * y**2)
    assert not torch.equal(drop(layer, x, after)[0], y) or x.numel() < 10


def test_a_model_drops_by_the_masks_that_were_asked_for():
    size = {"n_chans": 22, "n_times": 200, "n_outputs": 2}
    x = torch.randn(64, 22, 200)
    numbers = []
    for options in ({}, {"exact_masks": False}):
        model = FastEEGNet(**size, **options)
        for _ in range(2):
            with Draws() as draws:
                copy.deepcopy(model)(x)
            numbers.append(draws.number)
            pickle.loads(pickle.dumps(model))
            speed_up(model, **options)
    assert numbers == [2, 2, 0, 0]
