"""speed_up on any model, with anything between its first layers."""

import copy
import io
import logging
import pickle

import braindecode.models
import numpy as np
import pytest
import torch
from braindecode.models.util import models_dict, models_mandatory_parameters
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from braindecode_sam import SAM, speed_up, unspeed
from braindecode_sam.models import FAST
from braindecode_sam.models._stem.pending import Pending, watch
from braindecode_sam.models.speed_up import WaitingConv2d

SPED_UP = [cls.__bases__[1].__name__ for cls in FAST]


class Transposed(nn.Module):
    """(batch, n_chans, n_times) to (batch, 1, n_times, n_chans)."""

    def forward(self, x):
        return x.mT[:, None]


class Joined(nn.Module):
    """Branches one after the other, as in TCFormer."""

    def __init__(self, *branches):
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x):
        return torch.cat([branch(x) for branch in self.branches], dim=1)


class Doubled(torch.autograd.Function):
    """Bypasses torch functions."""

    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, grad):
        return 2 * grad


def make_front(
    n_chans=3, n_filters=4, n_taps=9, padding="same", bias=True, norm=True, depth=2,
    second=None, is_full=False, time_first=False, n_branches=1, **norm_options,
):  # fmt: skip
    """Front of a model: filters over time, optionally twice, then over channels."""

    torch.manual_seed(0)

    def size(n_taps, n_chans=1):
        return (n_taps, n_chans) if time_first else (n_chans, n_taps)

    def temporal(n_in, n_out, n_taps):
        pads = padding if isinstance(padding, str) else size(padding, 0)
        layers = [nn.Conv2d(n_in, n_out, size(n_taps), padding=pads, bias=bias)]
        return [*layers, nn.BatchNorm2d(n_out, **norm_options)] if norm else layers

    branches = []
    for _ in range(n_branches):
        branch = temporal(1, n_filters, n_taps)
        if second is not None:
            branch += temporal(n_filters, n_filters + 1, second)
        branches.append(nn.Sequential(*branch))
    n_inner = n_branches * (n_filters + (second is not None))
    spatial = nn.Conv2d(
        n_inner, depth if is_full else depth * n_inner, size(1, n_chans),
        groups=1 if is_full else n_inner, bias=bias,
    )  # fmt: skip
    front = branches[0] if n_branches == 1 else Joined(*branches)
    first = Transposed() if time_first else nn.Unflatten(1, (1, n_chans))
    return randomized(nn.Sequential(first, front, spatial, nn.ELU()))


def randomized(model, seed=0):
    torch.manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                for tensor in (module.weight, module.running_var):
                    if tensor is not None:
                        tensor.uniform_(0.5, 2)
                for tensor in (module.bias, module.running_mean):
                    if tensor is not None:
                        tensor.uniform_(-1, 1)
            if isinstance(module, (nn.Dropout, nn.Dropout2d)):
                module.p = 0.0
    return model.double()


def run(model, x):
    """Outputs, gradients and buffers."""
    model.zero_grad()
    torch.manual_seed(1)
    out = model(x)
    out = out[0] if isinstance(out, tuple) else out
    weights = torch.linspace(0, 9, out.numel(), dtype=out.dtype).sin().view_as(out)
    (out * weights).sum().backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return out.detach(), gradients, dict(model.named_buffers())


def assert_equal(expected, found, tolerance=1e-8):
    """Compare relative to the largest output, or to the largest gradients."""
    scale = max(expected[0].abs().max(), 1e-12)
    assert (expected[0] - found[0]).abs().max() < tolerance * scale
    largest = max([g.abs().max() for g in expected[1].values()], default=0)
    assert expected[1].keys() == found[1].keys()
    for name, gradient in expected[1].items():
        least = max(gradient.abs().max(), 1e-4 * largest)
        error = (gradient - found[1][name]).abs().max()
        assert error <= tolerance * least, name
    for name, buffer in expected[2].items():
        torch.testing.assert_close(
            found[2][name], buffer, rtol=tolerance, atol=tolerance, msg=name
        )


def pair(model):
    """A model, and a copy in which all filters over time are deferred."""
    fast = copy.deepcopy(model)
    assert set(speed_up(fast)["pattern"]) == {"not tried"}
    return model, fast


def patterns(model, x):
    with watch() as outcomes:
        model(x)
    return [pattern for _, pattern, _ in outcomes]


# Every pattern, every option


@pytest.mark.slow
@given(
    n_chans=st.integers(2, 4),
    n_times=st.integers(30, 70),
    n_taps=st.integers(2, 40),
    padding=st.sampled_from(["same", "valid", 0, 3, 12]),
    second=st.none() | st.integers(1, 12),
    is_full=st.booleans(),
    flags=st.tuples(*[st.booleans()] * 5),
    n_branches=st.integers(1, 2),
    offset=st.sampled_from([0.0, 1e4]),
    seed=st.integers(0, 99),
)
def test_equals_the_stock_layers(
    n_chans, n_times, n_taps, padding, second, is_full, flags, n_branches, offset, seed
):
    bias, norm, time_first, training, affine = flags
    pads = padding if isinstance(padding, int) else (n_taps if padding == "same" else 0)
    assume(n_times + 2 * pads - n_taps - (second or 0) > 3)
    torch.manual_seed(seed)
    options = {"affine": affine, "eps": 1e-3} if norm else {}
    model = make_front(
        n_chans, n_taps=n_taps, padding=padding, bias=bias, norm=norm, second=second,
        is_full=is_full, time_first=time_first, n_branches=n_branches, **options,
    ).train(training)  # fmt: skip
    stock, fast = model, copy.deepcopy(model)
    assert set(speed_up(fast)["pattern"]) == {"not tried"}  # so even what does not pay
    x = torch.randn(3, n_chans, n_times, dtype=torch.float64) + offset
    # An offset costs the original layers as many digits as ours.
    assert_equal(run(stock, x), run(fast, x), 1e-8 if offset == 0 else 1e-5)


@pytest.mark.parametrize(
    ("options", "pattern"),
    [
        ({}, "depthwise"),
        ({"norm": False}, "depthwise"),
        ({"second": 5}, "depthwise"),
        ({"time_first": True}, "depthwise"),
        ({"n_branches": 2}, "depthwise"),
        ({"is_full": True, "norm": False}, "merged kernel"),
        ({"is_full": True}, "merged kernel"),
    ],
    ids=str,
)
def test_patterns_that_get_faster(options, pattern):
    model = make_front(20, n_taps=25, n_filters=8, **options)
    stock, fast = model, copy.deepcopy(model)
    found = speed_up(fast, input_shape=(1, 20, 200))
    assert set(found["pattern"]) == {pattern}
    assert (found["before"] > found["after"]).all()
    x = torch.randn(4, 20, 200, dtype=torch.float64)
    assert_equal(run(stock, x), run(fast, x))
    assert set(patterns(fast, x)) == {pattern}


# braindecode's models


def make_model(name, **options):
    """A model with its required parameters, else 6 channels and 2 s."""
    signal = {"n_chans": 6, "n_outputs": 2, "n_times": 400, "sfreq": 200.0}
    listed = {entry[0]: entry[2] or {} for entry in models_mandatory_parameters}
    signal |= listed.get(name, {})
    torch.manual_seed(0)
    model = models_dict[name](**(signal | options))
    return randomized(model), (2, *model.input_shape[1:])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of what these models think of small windows
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", SPED_UP)
def test_models_that_get_faster(name, training):
    model, shape = make_model(name)
    fast, _ = make_model(name)
    fast.load_state_dict(model.state_dict())
    names = [type(m) for m in fast.modules()]
    assert len(speed_up(fast)) > 0
    assert [type(m) for m in unsped(fast)] == names
    speed_up(fast)
    x = torch.randn(4, *shape[1:], dtype=torch.float64)
    pair = model.train(training), fast.train(training)
    assert_equal(*(run(m, x) for m in pair))
    assert None not in patterns(fast, x)


def unsped(model):
    unspeed(model)
    return list(model.modules())


OTHERS = [entry[0] for entry in models_mandatory_parameters]
OTHERS = sorted({n for n in OTHERS if n in models_dict} - set(SPED_UP))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of what these models think of small windows
@pytest.mark.parametrize("name", OTHERS)
def test_other_models_come_back_as_they_were(name):
    try:
        model, _ = make_model(name)
    except Exception as error:
        pytest.skip(f"is not built from signal parameters alone: {error!r:.200}")
    before = [(type(m), m.training, set(vars(m))) for m in model.modules()]
    state = copy.deepcopy(model.state_dict())
    random = torch.get_rng_state()
    assert len(speed_up(model)) == 0
    assert [(type(m), m.training, set(vars(m))) for m in model.modules()] == before
    assert torch.equal(torch.get_rng_state(), random)
    for key, value in model.state_dict().items():
        assert torch.equal(value, state[key]), key


# Layers in between receive the values of the original layers


def with_hook(model, seen):
    model[1][0].register_forward_hook(lambda m, args, out: seen.append(out.sum()))


def with_a_changing_hook(model, seen):
    model[1][0].register_forward_hook(lambda m, args, out: out.relu())


def with_a_changing_hook_in_place(model, seen):
    def hook(module, args, out):
        out.relu_()

    model[1][0].register_forward_hook(hook)


def with_hook_on_the_norm(model, seen):
    model[1][1].register_forward_hook(lambda m, args, out: seen.append(out.std()))


def with_pre_hook(model, seen):
    model[2].register_forward_pre_hook(lambda m, args: (args[0] * 2,))


def with_backward_hook(model, seen):
    model[2].register_full_backward_hook(
        lambda m, given, got: seen.append(got[0].sum())
    )


def with_backward_pre_hook(model, seen):
    model[1][1].register_full_backward_pre_hook(
        lambda m, got: seen.append(got[0].sum())
    )


def with_changed_gradients(model, seen):
    model[1][1].register_full_backward_hook(lambda m, given, got: (given[0] * 2,))


def with_an_activation(model, seen):
    model[1].insert(1, nn.ELU())


def with_an_activation_in_place(model, seen):
    model[1].append(nn.ELU(inplace=True))


def with_dropout(model, seen):
    model[1].append(nn.Dropout(0.5))


def with_a_stride(model, seen):
    model[1][0].stride, model[1][0].padding = (1, 2), (0, 4)


def with_a_dilation(model, seen):
    model[1][0].dilation = (1, 2)


def with_circular_padding(model, seen):
    new = nn.Conv2d(1, 4, (1, 9), padding="same", padding_mode="circular").double()
    new.load_state_dict(model[1][0].state_dict())
    model[1][0] = new


def with_another_bias(model, seen):
    model[1][0].bias = nn.Parameter(torch.ones(4, dtype=torch.float64))


def with_another_norm(model, seen):
    model[1][1] = nn.InstanceNorm2d(4, affine=True).double()


def with_a_patched_forward(model, seen):
    layer = model[1][0]
    layer.forward = lambda x: nn.functional.conv2d(x, layer.weight, padding="same") ** 2


def with_a_patched_norm(model, seen):
    forward = model[1][1].forward
    model[1][1].forward = lambda x: forward(x).abs()


def with_a_second_reader(model, seen):
    class Both(nn.Module):
        def __init__(self, spatial):
            super().__init__()
            self.spatial = spatial

        def forward(self, x):
            return self.spatial(x) + x.mean()

    model[2] = Both(model[2])


class Checkpointed(nn.Module):
    """Saves nothing of a layer's forward pass for the backward pass."""

    def __init__(self, inner, use_reentrant):
        super().__init__()
        self.inner, self.use_reentrant = inner, use_reentrant

    def forward(self, x):
        return checkpoint(self.inner, x, use_reentrant=self.use_reentrant)


def with_checkpointing(model, seen):
    model[2] = Checkpointed(model[2], use_reentrant=False)


def with_reentrant_checkpointing(model, seen):
    model[2] = Checkpointed(model[2], use_reentrant=True)


def with_reentrant_checkpointing_of_the_norm(model, seen):
    model[1][1] = Checkpointed(model[1][1], use_reentrant=True)


def with_a_norm_in_an_autograd_function(model, seen):
    norm = model[1][1]

    class Normalized(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            mean, var = norm.running_mean, norm.running_var
            return nn.functional.batch_norm(x, mean, var)

        @staticmethod
        def backward(ctx, grad):
            return 2 * grad

    class Layer(nn.Module):
        def forward(self, x):
            return Normalized.apply(x)

    model[1][1] = Layer()


def with_a_patched_convolution(model, seen):
    def convolve(x, weight, bias):
        return nn.functional.conv2d(x, 2 * weight, bias, padding="same")

    model[1][0]._conv_forward = convolve


def with_an_autograd_function(model, seen):
    class Layer(nn.Module):
        def forward(self, x):
            return Doubled.apply(x)

    model[1].append(Layer())


def with_half_of_the_channels(model, seen):
    model[2] = nn.Conv2d(4, 4, (2, 1), groups=4).double()


def with_two_groups(model, seen):
    model[2] = nn.Conv2d(4, 8, (3, 1), groups=2).double()


def with_weight_norm(model, seen):
    parametrizations.weight_norm(model[2])


def with_spectral_norm(model, seen):
    parametrizations.spectral_norm(model[1][0])  # counts how often it is read


def with_frozen_filters(model, seen):
    model[1].requires_grad_(False)


def with_a_norm_in_eval_mode(model, seen):
    model[1][1].eval()


def with_a_cumulative_norm(model, seen):
    model[1][1].momentum = None


def with_a_norm_without_statistics(model, seen):
    model[1][1] = nn.BatchNorm2d(4, track_running_stats=False).double()


CHANGES = {f.__name__: f for f in list(globals().values()) if callable(f)
           and getattr(f, "__name__", "").startswith("with_")}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("change", CHANGES)
def test_changed_layers(change, when, training):
    results, seen = [], []
    x = torch.randn(4, 3, 60, dtype=torch.float64)
    for is_fast in (False, True):
        model = make_front()
        noted = []
        torch.manual_seed(5)
        if when == "before":
            CHANGES[change](model, noted)
        if is_fast:
            speed_up(model)
        torch.manual_seed(5)
        if when == "after":
            CHANGES[change](model, noted)
        results.append(run(model.train(training), x))
        seen.append(noted)
    assert_equal(*results)
    assert len(seen[0]) == len(seen[1])
    for stock, fast in zip(*seen, strict=True):
        torch.testing.assert_close(fast, stock)


@pytest.mark.parametrize("training", [True, False])
def test_layers_that_do_not_pay_are_turned_back(training):
    model = make_front()
    with_an_activation(model, None)
    stock, fast = model, copy.deepcopy(model)
    assert len(speed_up(fast, input_shape=(1, 3, 60))) == 0
    assert [type(m) for m in fast.modules()] == [type(m) for m in stock.modules()]
    x = torch.randn(4, 3, 60, dtype=torch.float64)
    expected, got = run(stock.train(training), x), run(fast.train(training), x)
    assert torch.equal(expected[0], got[0])
    for part in (1, 2):
        for name, value in expected[part].items():
            assert torch.equal(value, got[part][name])


# Stored outputs


def keep_outputs(module):
    kept = []
    module.register_forward_hook(lambda module, args, output: kept.append(output))
    return kept


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("is_global", [False, True])
def test_gradients_of_an_output_that_a_hook_keeps(layer, is_global):
    x = torch.randn(4, 20, 60, dtype=torch.float64)
    found, handles = [], []
    model = make_front(20, n_taps=25).eval()
    fast = copy.deepcopy(model)
    assert len(speed_up(fast, input_shape=(1, 20, 60))) == 1
    for each in (model, fast):
        kept, target = [], each[1][layer]

        def keep(module, args, output, kept=kept, target=target):
            if module is target:
                kept.append(output)

        register = target.register_forward_hook
        if is_global:
            register = nn.modules.module.register_module_forward_hook
        handles.append(register(keep))
        y = each(x)
        kept[0].retain_grad()
        y.sum().backward()
        found.append(kept[0].grad)
    for handle in handles:
        handle.remove()
    torch.testing.assert_close(*found)


def test_an_output_that_a_hook_keeps_does_not_change_with_the_windows():
    _, fast = pair(make_front())
    kept = keep_outputs(fast[1][0])
    windows = np.zeros((4, 3, 60))
    x = torch.from_numpy(windows)
    with torch.no_grad():
        for value in (1, 2):
            windows[:] = value
            fast(x)
    assert not torch.equal(*kept)


def test_the_two_step_form_of_sam_keeps_its_speed():
    _, fast = pair(make_front(20, n_taps=25))
    x = torch.randn(4, 20, 60, dtype=torch.float64)
    optimizer = SAM(fast.parameters(), torch.optim.SGD, lr=0.1)
    fast(x).sum().backward()
    optimizer.first_step(zero_grad=True)
    assert patterns(fast, x) == ["depthwise"]
    fast(x).sum().backward()
    optimizer.second_step()


# Inputs for which the original layers raise


def no_groups():
    return nn.Conv2d(1, 4, (1, 9)), nn.Conv2d(1, 8, (3, 1))


def too_many_filters():
    return nn.Conv2d(1, 4, (1, 9)), nn.Conv2d(5, 8, (3, 1))


def norm_of_one():
    norm = nn.BatchNorm2d(1).eval()
    return nn.Conv2d(1, 4, (1, 9)), norm, nn.Conv2d(4, 8, (3, 1), groups=4)


def norm_without_eps():
    norm = nn.BatchNorm2d(4, eps=-1.0)
    return nn.Conv2d(1, 4, (1, 9)), norm, nn.Conv2d(4, 8, (3, 1), groups=4)


def too_long():
    return nn.Conv2d(1, 4, (1, 99)), nn.Conv2d(4, 8, (3, 1), groups=4)


def too_long_again():
    layers = nn.Conv2d(1, 4, (1, 9)), nn.Conv2d(4, 4, (1, 99))
    return *layers, nn.Conv2d(4, 8, (3, 1), groups=4)


def other_precision():
    spatial = nn.Conv2d(4, 8, (3, 1), groups=4).double()
    return nn.Conv2d(1, 4, (1, 9)), spatial


@pytest.mark.parametrize(
    "make_layers",
    [no_groups, too_many_filters, norm_of_one, norm_without_eps, too_long,
     too_long_again, other_precision],
)  # fmt: skip
def test_what_the_stock_layers_refuse_is_refused(make_layers):
    messages = []
    for model in pair(nn.Sequential(*make_layers())):
        with pytest.raises((RuntimeError, ValueError)) as raised:
            model(torch.randn(2, 1, 3, 60))
        messages.append(str(raised.value))
    assert messages[0] == messages[1]


def test_a_users_own_front_can_be_traced_by_fx():
    model = nn.Sequential(*list(make_front(20, n_taps=25)[1]), nn.Dropout()).eval()
    stock, fast = pair(model)
    x = torch.randn(4, 1, 20, 60, dtype=torch.float64)
    assert torch.equal(torch.fx.symbolic_trace(fast)(x), stock(x))


@pytest.mark.parametrize("is_full", [False, True])
def test_the_output_can_be_viewed(is_full):
    _, fast = pair(make_front(padding=0, is_full=is_full)[:3])
    y = fast(torch.randn(4, 3, 60, dtype=torch.float64))
    assert y.view(4, -1).shape == (4, y.numel() // 4)


@pytest.mark.parametrize("second", [None, 5])
def test_batched_gradients(second):
    _, fast = pair(make_front(second=second))
    y = fast(torch.randn(4, 3, 60, dtype=torch.float64)).mean(dim=(1, 2, 3))
    params = list(fast.parameters())
    rows = torch.eye(4, dtype=torch.float64)
    batched = torch.autograd.grad(
        y, params, rows, is_grads_batched=True, retain_graph=True
    )
    for i, row in enumerate(rows):
        alone = torch.autograd.grad(y, params, row, retain_graph=True)
        torch.testing.assert_close([b[i] for b in batched], list(alone))


# A pending value is a tensor


@pytest.fixture
def waiting():
    layer = speed_one(make_front()[1][0])
    x = torch.randn(2, 1, 3, 60, dtype=torch.float64)
    return layer(x), nn.Conv2d.forward(layer, x)


def speed_one(layer):
    speed_up(nn.Sequential(layer))
    return layer


READS = {
    "arithmetic": lambda y: 2 * y + y,
    "in place": lambda y: y.add_(1) * y,
    "inplace": lambda y: nn.functional.elu_(y.clone()),
    "indexing": lambda y: y[:, 1],
    "unpacking": lambda y: torch.stack(list(y)),
    "view": lambda y: y.flatten(1),
    "detach": lambda y: y.detach(),
    "numpy": lambda y: torch.as_tensor(y.detach().numpy()),
    "np.asarray": lambda y: torch.as_tensor(np.asarray(y.detach())),
    "data": lambda y: y.data,
    "strides": lambda y: torch.tensor(y.stride()),
    "copy": lambda y: copy.deepcopy(y.detach()),
    "pickle": lambda y: pickle.loads(pickle.dumps(y.detach())),
    "to": lambda y: y.to(torch.float32),
    "out": lambda y: torch.add(y.detach(), 1, out=torch.empty_like(y.detach())),
    "allclose": lambda y: torch.tensor(torch.allclose(y, y)),
    "einsum": lambda y: torch.einsum("bfct->bft", y),
    "cat": lambda y: torch.cat([y, y], dim=2),
    "cat with others": lambda y: torch.cat([y, torch.ones_like(y)], dim=1),
    "stack": lambda y: torch.stack([y, y]),
    "cat one": lambda y: torch.cat([y]),
    "weight": lambda y: torch.conv2d(torch.ones(1, 4, 9, 90, dtype=y.dtype), y),
    "bias": lambda y: torch.conv2d(
        torch.ones(1, 1, 9, 90, dtype=y.dtype),
        torch.ones_like(y[0, :, None]),
        y.sum((0, 2, 3)),
    ),
    "weight of itself": lambda y: torch.conv2d(y, y),
    "weight of a norm": lambda y: nn.functional.batch_norm(
        torch.ones(3, 480, dtype=y.dtype), None, None, y.flatten()[:480], training=True
    ),
    "max": lambda y: y.max(dim=1).values,
    "item": lambda y: torch.tensor(y.sum().item()),
    "save": lambda y: saved(y.detach()),
}


def saved(tensor):
    file = io.BytesIO()
    torch.save(tensor, file)
    file.seek(0)
    return torch.load(file)


@pytest.mark.parametrize("read", READS)
def test_reading_a_pending_value(read, waiting):
    pending, stock = waiting
    assert isinstance(pending, Pending)
    found, expected = READS[read](pending), READS[read](stock)
    assert type(found) is torch.Tensor
    assert torch.equal(found, expected)
    if expected.requires_grad:
        assert found.requires_grad


def test_what_is_known_without_computing(waiting):
    pending, stock = waiting
    for known in ("shape", "dtype", "device", "ndim", "requires_grad", "is_leaf"):
        assert getattr(pending, known) == getattr(stock, known)
    assert pending.size(1) == 4
    assert pending.dim() == len(pending.shape) == 4
    assert len(pending) == 2
    assert pending.numel() == stock.numel()
    assert isinstance(pending, torch.Tensor)
    assert {pending: 1}[pending] == 1
    assert pending.deferred.is_pending
    assert repr(pending) == repr(stock).replace(
        "ConvolutionBackward0", "ConvolutionBackward0"
    )
    assert not pending.deferred.is_pending


def test_a_change_in_place_is_seen_by_whoever_comes_later(waiting):
    pending, stock = waiting
    pending.mul_(2)
    assert torch.equal(pending + 0, 2 * stock)


def test_a_change_of_its_shape_is_seen(waiting):
    y, _ = waiting
    before = hash(y)
    y.unsqueeze_(0)
    assert y.ndim == 5
    y.transpose_(0, 1)
    assert y.shape[1] == 1
    assert hash(y) == before


def test_gradients_can_be_asked_for_of_a_frozen_output():
    layer = speed_one(make_front()[1][0]).requires_grad_(False)
    y = layer(torch.randn(2, 1, 3, 60, dtype=torch.float64))
    y.requires_grad_(True)
    assert y.requires_grad
    y.sum().backward()
    assert y.grad is not None


def test_gradients_reach_the_layer_from_anywhere(waiting):
    pending, _ = waiting
    kept = []
    pending.register_hook(kept.append)
    pending.retain_grad()
    (pending**2).sum().backward()
    torch.testing.assert_close(pending.grad, 2 * pending)
    torch.testing.assert_close(kept[0], 2 * pending)


def test_a_value_that_is_read_after_the_weights_have_changed():
    layer = speed_one(make_front()[1][0])
    x = torch.randn(2, 1, 3, 60, dtype=torch.float64)
    expected, pending = nn.Conv2d.forward(layer, x).detach(), layer(x)
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.zero_()
    assert torch.equal(pending.detach(), expected)


def test_windows_that_change_before_they_are_used_are_an_error():
    layer = speed_one(make_front()[1][0])
    x = torch.randn(2, 1, 3, 60, dtype=torch.float64)
    pending = layer(x)
    x.mul_(2)
    with pytest.raises(RuntimeError, match="windows were modified in place between"):
        pending.sum()


# Windows


@pytest.mark.parametrize("how", ["numpy", "data", "same mean", "in place"])
def test_windows_that_change_without_a_trace(how):
    model = make_front()
    stock, fast = pair(model)
    array = np.random.default_rng(0).normal(size=(4, 3, 60))
    x = torch.from_numpy(array)
    for step in range(3):
        if how == "numpy":
            array[:] = np.random.default_rng(step).normal(size=array.shape) * (step + 1)
        elif how == "same mean":
            array[:] = array[:, :, np.random.default_rng(step).permutation(60)]
        elif how == "data":
            x.data.mul_(2)
        else:
            x.mul_(2)
        assert_equal(run(stock, x), run(fast, x))


def test_moments_are_counted_once_a_sam_step(monkeypatch):
    from braindecode_sam.models._stem import moments

    counted = []
    count = moments.window_moments
    monkeypatch.setattr(
        moments, "window_moments", lambda *args: counted.append(1) or count(*args)
    )
    fast = pair(make_front(n_branches=2))[1]
    for _ in range(2):
        x = torch.randn(4, 3, 60, dtype=torch.float64)
        fast(x)
        fast(x.clone())
    assert len(counted) == 2


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
@pytest.mark.parametrize("options", [{}, {"second": 5}, {"is_full": True}], ids=str)
def test_one_bad_window_spoils_no_other(options, value):
    stock, fast = pair(make_front(**options).float().eval())
    x = torch.randn(4, 3, 60)
    x[1, 0, 7] = value
    expected, found = stock(x).detach(), fast(x).detach()
    others = [0, 2, 3]
    assert expected[others].isfinite().all()
    torch.testing.assert_close(found[others], expected[others], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found[others], fast(x[others]), rtol=1e-5, atol=1e-5)


# Ways to run a model


def test_windows_that_need_gradients():
    stock, fast = pair(make_front())
    maps = []
    for model in (stock, fast):
        x = torch.linspace(0, 9, 720, dtype=torch.float64).sin().view(4, 3, 60)
        x.requires_grad_()
        model(x).sum().backward()
        maps.append(x.grad)
    assert torch.equal(*maps)


@pytest.mark.parametrize("training", [True, False])
def test_double_backward(training):
    results = []
    for model in pair(make_front(second=5)):
        x = torch.linspace(0, 9, 720, dtype=torch.float64).sin().view(4, 3, 60)
        params = list(model.train(training).parameters())
        loss = (model(x) ** 2).mean()
        first = torch.autograd.grad(loss, params, create_graph=True)
        second = torch.autograd.grad(
            sum(g.square().sum() for g in first), params, allow_unused=True
        )
        results.append([g for g in second if g is not None])
    scale = max(g.abs().max() for g in results[0])
    for stock, fast in zip(*results, strict=True):
        assert (stock - fast).abs().max() < 1e-9 * scale


def test_double_backward_of_a_value_that_was_read():
    layer = speed_one(make_front()[1][0])
    x = torch.randn(2, 1, 3, 60, dtype=torch.float64)

    found = []
    for y in (nn.Conv2d.forward(layer, x), layer(x)):
        loss = (Doubled.apply(y) ** 3).sum()
        (grad,) = torch.autograd.grad(loss, layer.weight, create_graph=True)
        found.append(torch.autograd.grad(grad.square().sum(), layer.weight)[0])
    torch.testing.assert_close(*found)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_forward_mode():
    stock, fast = pair(make_front().eval())
    x = torch.randn(2, 3, 60, dtype=torch.float64)
    tangents = {n: torch.ones_like(p) for n, p in stock.named_parameters()}
    found = []
    for model in (stock, fast):
        params = {n: p.detach() for n, p in model.named_parameters()}
        with torch.autograd.forward_ad.dual_level():
            dual = {
                n: torch.autograd.forward_ad.make_dual(p, tangents[n])
                for n, p in params.items()
            }
            out = torch.func.functional_call(model, dual, (x,))
            found.append(torch.autograd.forward_ad.unpack_dual(out).tangent)
    torch.testing.assert_close(*found)


WHOLE = ["EEGNeX", "EEGNet"]


@pytest.fixture(params=[None, *WHOLE])
def to_compile(request):
    """An original and a fast model, and windows."""
    if request.param is None:
        return *pair(make_front().float().eval()), torch.randn(4, 3, 60)
    model = make_model(request.param)[0].float().eval()
    return *(model, sped_up_copy(model)), torch.randn(4, 6, 400)


def sped_up_copy(model):
    fast = models_dict[f"Fast{type(model).__name__}"](**model._braindecode_init_kwargs)
    fast.load_state_dict(model.state_dict())
    return fast.eval()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of what torch will change
@pytest.mark.parametrize("strict", [True, False])
def test_export(strict, to_compile):
    stock, fast, x = to_compile
    batch = {0: torch.export.Dim("batch", min=2, max=64)}
    exported = torch.export.export(fast, (x,), dynamic_shapes=(batch,), strict=strict)
    other = torch.randn(7, *x.shape[1:])
    torch.testing.assert_close(exported.module()(other), stock(other))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of what torch will change
def test_onnx(to_compile):
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    _, fast, x = to_compile
    batch = {0: torch.export.Dim("batch", min=2, max=64)}
    assert torch.onnx.export(fast, (x,), dynamo=True, dynamic_shapes=(batch,))


@pytest.mark.filterwarnings("ignore:`torch.jit")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_tracing_and_scripting():
    """Of a custom model, since braindecode's parametrized ones cannot be scripted."""
    model = make_front().append(nn.Conv2d(8, 8, (1, 5), padding="same"))
    stock, fast = pair(model.append(nn.Dropout(0.5)).float().eval())
    x = torch.randn(4, 3, 60)
    before = [type(m) for m in fast.modules()]
    for compiled in (torch.jit.trace(fast, x), torch.jit.script(fast)):
        torch.testing.assert_close(compiled(x), stock(x))
    assert [type(m) for m in fast.modules()] == before


@pytest.mark.slow
def test_compile_as_one_graph(to_compile):
    torch.compiler.reset()
    stock, fast, x = to_compile
    compiled = torch.compile(fast, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), stock(x))


def test_functional_transforms():
    stock, fast = pair(make_front().eval())
    x = torch.randn(4, 3, 60, dtype=torch.float64)
    found = []
    for model in (stock, fast):
        weights = {n: p.detach() for n, p in model.named_parameters()}

        def loss(weights, window, model=model):
            out = torch.func.functional_call(model, weights, (window[None],))
            return out.square().sum()

        each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))
        found.append(each(weights, x))
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("is_inside", [True, False])
def test_autocast(is_inside):
    stock, fast = pair(make_front(20, n_taps=25).float().eval())
    x = torch.randn(8, 20, 200)
    truth = stock(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert set(patterns(fast, x)) == {"depthwise"}
        outs = [model(x) for model in (stock, fast)]
        assert outs[0].dtype == outs[1].dtype
        waiting = fast[:2](x)
        if is_inside:
            read = waiting.float()
    if not is_inside:
        read = waiting.float()
    errors = [(out.float() - truth).abs().max() for out in outs]
    assert errors[1] <= 1.5 * errors[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(read, stock[:2](x).float())


def test_inference_mode_and_no_grad():
    stock, fast = pair(make_front())
    x = torch.randn(4, 3, 60, dtype=torch.float64)
    for context in (torch.inference_mode, torch.no_grad):
        with context():
            torch.testing.assert_close(fast(x), stock(x))
    with torch.inference_mode():
        inside = torch.randn(4, 3, 60, dtype=torch.float64)
        torch.testing.assert_close(fast(inside), stock(inside))
    assert_equal(run(stock, x), run(fast, x))  # nothing of it was kept


def test_data_parallel_replicas():
    fast = pair(make_front())[1]
    replica = fast._replicate_for_data_parallel()
    x = torch.randn(4, 3, 60, dtype=torch.float64)
    torch.testing.assert_close(replica.eval()(x), fast.eval()(x))


# speed_up and unspeed


def test_what_is_returned_and_printed(capsys, caplog):
    model = braindecode.models.EEGNet(n_chans=8, n_outputs=2, n_times=200)
    with caplog.at_level(logging.INFO):
        found = speed_up(model, verbose=True)
    assert list(found.columns) == ["layer", "pattern", "before", "after"]
    assert found["layer"].tolist() == ["conv_temporal"]
    assert "conv_temporal depthwise" in capsys.readouterr().out
    assert "conv_temporal is deferred: depthwise" in caplog.text
    assert speed_up(model).equals(found)  # a second time changes nothing
    assert speed_up(nn.Linear(2, 2), verbose=True).empty
    assert capsys.readouterr().out == "No layer gets faster.\n"


@pytest.mark.parametrize(
    ("arguments", "options", "match"),
    [
        ("EEGNet", {}, "must be a torch.nn.Module, got 'EEGNet'; for a skorch net"),
        (nn.Linear, {}, "must be a torch.nn.Module, got <class"),
        (nn.Linear(2, 2), {"input_shape": 5}, "the shape of a batch of.*, got 5"),
        (nn.Linear(2, 2), {"input_shape": (1, 2.5)}, r"got \(1, 2.5\)"),
    ],
    ids=str,
)
def test_wrong_arguments(arguments, options, match):
    with pytest.raises(TypeError, match=match):
        speed_up(arguments, **options)


@pytest.mark.parametrize("change", ["half", "meta", "lazy"])
def test_what_cannot_run_yet_is_not_tried(change):
    model = make_front(20, n_taps=25)
    if change == "half":
        model.half()
    elif change == "meta":
        model.to("meta")
    else:
        model[1][1] = nn.LazyBatchNorm2d().double()
    found = speed_up(model, input_shape=(1, 20, 60))
    assert found["pattern"].tolist() == ["not tried"]
    if change == "half":
        x = torch.randn(4, 20, 60, dtype=torch.float64)
        assert patterns(model.double(), x) == ["depthwise"]


def test_a_compiled_module_gains_nothing_and_says_so(caplog, to_compile):
    speed_up(torch.compile(make_front(20), backend="eager"))
    assert "compiled by torch.compile run the original layers" in caplog.text


def test_why_a_layer_falls_back_is_logged_once(caplog):
    _, fast = pair(make_front())
    x = torch.randn(4, 3, 60, dtype=torch.float64, requires_grad=True)
    with caplog.at_level(logging.INFO):
        fast(x)
        fast(x)
    told = [r.message for r in caplog.records]
    assert told == ["1.0 runs as the original layer: its input requires gradients"]


def test_a_module_that_does_not_know_its_input_is_not_tried():
    model = make_front(20, n_taps=25)
    stock, fast = model, copy.deepcopy(model)
    found = speed_up(fast)
    assert found["pattern"].tolist() == ["not tried"]
    x = torch.randn(4, 20, 60, dtype=torch.float64)
    assert_equal(run(stock, x), run(fast, x))
    assert unspeed(fast) == ["1.0"]
    assert type(fast[1][0]) is nn.Conv2d
    assert set(vars(fast[1][0])) == set(vars(stock[1][0]))


def test_a_module_that_cannot_run_is_left_as_it_is(caplog):
    model = make_front(20)
    with pytest.raises(RuntimeError, match="unflatten: Provided sizes"):
        speed_up(model, input_shape=(1, 7, 7, 7))
    assert type(model[1][0]) is nn.Conv2d
    model.input_shape = (1, 7, 7, 7)
    with caplog.at_level(logging.INFO):
        assert len(speed_up(model)) == 0
    assert "Sequential is unchanged" in caplog.text
    assert type(model[1][0]) is nn.Conv2d


def test_models_inside_of_others_keep_parameters_hooks_and_optimizers():
    model = nn.ModuleDict({"model": make_model("EEGNeX")[0], "other": nn.Linear(2, 2)})
    parameters = list(model.parameters())
    seen = []
    model["model"].block_2.register_forward_hook(lambda *args: seen.append(1))
    found = speed_up(model)
    assert found["layer"].tolist() == ["model.block_1.1"]
    assert all(a is b for a, b in zip(parameters, model.parameters(), strict=True))
    seen.clear()
    model["model"](torch.randn(2, 6, 400, dtype=torch.float64))
    assert seen == [1]


@pytest.mark.filterwarnings("ignore")
def test_parametrized_filters():
    model, _ = make_model("ATCNet", conv_max_norm_const=0.6)
    fast, _ = make_model("ATCNet", conv_max_norm_const=0.6)
    fast.load_state_dict(model.state_dict())
    assert len(speed_up(fast)) == 1
    x = torch.randn(4, 6, 400, dtype=torch.float64)
    assert_equal(run(model, x), run(fast, x))
    again = pickle.loads(pickle.dumps(copy.deepcopy(fast)))
    assert_equal(run(model.eval(), x), run(again.eval(), x))
    assert None not in patterns(again, x)


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))]
)
def test_copies_share_no_memory_of_moments(copied):
    _, fast = pair(make_front(n_branches=2))
    fast(torch.randn(4, 3, 60, dtype=torch.float64))
    again = copied(fast)
    memories = [
        layer._moments_memory
        for model in (fast, again)
        for layer in model.modules()
        if isinstance(layer, WaitingConv2d)
    ]
    assert memories[0] is memories[1]
    assert memories[2] is memories[3]
    assert memories[0] is not memories[2]
    assert not memories[2]._known
