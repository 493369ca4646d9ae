"""Values that wait for a reader, and ways to run a module that speed_up changed."""

import copy
import functools
import gc
import io
import itertools
import pickle

import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx

from braindecode_sam import SAM, speed_up
from braindecode_sam.models import FastEEGNet, FastEEGNeX
from tests.models.helpers import (
    Computed,
    Doubled,
    assert_equal,
    computed,
    fronts,
    make_front,
    make_model,
    maps,
    pair,
    run,
    windows,
)

FULL = pytest.mark.full


# A value that waits is a tensor


def make_waiting():
    """Output of a layer that waits, and the same of the stock layer."""
    layer = speed_one(make_front()[1][0])
    x = windows(2, 3, 60)[:, None]
    return layer(x), nn.Conv2d.forward(layer, x)


def speed_one(layer):
    speed_up(nn.Sequential(layer))
    return layer


def pickled(thing):
    return pickle.loads(pickle.dumps(thing))


def saved(tensor):
    file = io.BytesIO()
    torch.save(tensor, file)
    file.seek(0)
    return torch.load(file)


READS = {
    "arithmetic": lambda y: 2 * y + y,
    "in place": lambda y: y.add_(1) * y,
    "unpacking": lambda y: torch.stack(list(y)),
    "array": lambda y: torch.as_tensor(np.asarray(y.detach())),
    "data": lambda y: y.data,
    "strides": lambda y: torch.tensor(y.stride()),
    "copy": lambda y: copy.deepcopy(y.detach()),
    "pickle": lambda y: pickled(y.detach()),
    "save": lambda y: saved(y.detach()),
    "out": lambda y: torch.add(y.detach(), 1, out=torch.empty_like(y.detach())),
    "cat along channels": lambda y: torch.cat([y, y], dim=2),
    "cat with others": lambda y: torch.cat([y, torch.ones_like(y)], dim=1),
    "weight": lambda y: torch.conv2d(torch.ones(1, 4, 9, 90, dtype=y.dtype), y),
    "weight of itself": lambda y: torch.conv2d(y, y),
    "weight of a norm": lambda y: nn.functional.batch_norm(
        torch.ones(3, 480, dtype=y.dtype), None, None, y.flatten()[:480], training=True
    ),
}


def test_reading_a_value_that_waits_gives_the_stock_value():
    for name, read in READS.items():
        found, expected = map(read, make_waiting())
        assert type(found) is torch.Tensor, name
        assert torch.equal(found, expected), name
        assert found.requires_grad or not expected.requires_grad, name


def test_shape_and_dtype_are_known_without_computing():
    layer = speed_one(make_front()[1][0])
    x = windows(2, 3, 60)[:, None]
    stock = nn.Conv2d.forward(layer, x)
    with Computed() as operations:
        y = layer(x)
        for known in ("shape", "dtype", "device", "ndim", "requires_grad", "is_leaf"):
            assert getattr(y, known) == getattr(stock, known)
        assert (y.size(1), y.dim(), len(y), y.numel()) == (4, 4, 2, stock.numel())
        assert {y: 1}[y] == 1
        assert operations.maps == []
        assert repr(y) == repr(stock)
        assert operations.maps == [stock.shape]


def test_changes_in_place_are_seen_by_later_readers():
    y, stock = make_waiting()
    before = hash(y)
    y.mul_(2)
    assert torch.equal(y + 0, 2 * stock)
    y.unsqueeze_(0)
    y.transpose_(0, 1)
    assert y.shape == (2, 1, *stock.shape[1:])
    assert hash(y) == before


def test_gradients_reach_the_layer_from_anywhere():
    y, _ = make_waiting()
    kept = []
    y.register_hook(kept.append)
    y.retain_grad()
    (y**2).sum().backward()
    torch.testing.assert_close(y.grad, 2 * y)
    torch.testing.assert_close(kept[0], 2 * y)
    frozen = speed_one(make_front()[1][0]).requires_grad_(False)
    y = frozen(windows(2, 3, 60)[:, None]).requires_grad_(True)
    (y**2).sum().backward()
    torch.testing.assert_close(y.grad, 2 * y)


def test_a_value_that_is_read_after_the_weights_have_changed():
    layer = speed_one(make_front()[1][0])
    x = windows(2, 3, 60)[:, None]
    expected, pending = nn.Conv2d.forward(layer, x).detach(), layer(x)
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.zero_()
    assert torch.equal(pending.detach(), expected)


def test_windows_that_change_before_they_are_used_are_an_error():
    layer = speed_one(make_front()[1][0])
    x = windows(2, 3, 60)[:, None]
    pending = layer(x)
    x.mul_(2)
    with pytest.raises(RuntimeError, match="windows were modified in place between"):
        pending.sum()


# Stored outputs


@pytest.mark.parametrize(("layer", "is_global"), [(0, True), (1, False)])
def test_an_output_that_a_hook_keeps_has_gradients(layer, is_global):
    x = windows(4, 20, 60)
    model = make_front(20, n_taps=25).eval()
    fast = copy.deepcopy(model)
    assert len(fronts(speed_up(fast, input_shape=(1, 20, 60)))) == 1
    found = []
    for each in (model, fast):
        kept = {}
        hook = functools.partial(lambda kept, m, x, y: kept.update({m: y}), kept)
        register = each[1][layer].register_forward_hook
        if is_global:
            register = nn.modules.module.register_module_forward_hook
        handle = register(hook)
        y = each(x)
        handle.remove()
        kept[each[1][layer]].retain_grad()
        y.sum().backward()
        found.append(kept[each[1][layer]].grad)
    torch.testing.assert_close(*found)


def test_the_two_step_form_of_sam_keeps_its_speed():
    _, fast = pair(make_front(20, n_taps=25))
    x = windows(4, 20, 60)
    optimizer = SAM(fast.parameters(), torch.optim.SGD, lr=0.1)
    fast(x).sum().backward()
    optimizer.first_step(zero_grad=True)
    assert not maps(fast, x)
    fast(x).sum().backward()
    optimizer.second_step()


# Inputs for which the original layers raise


def error_of(model):
    try:
        model(torch.randn(2, 1, 3, 60))
    except (RuntimeError, ValueError) as error:
        return str(error)
    return None


def test_what_the_stock_layers_refuse_is_refused():
    filters = nn.Conv2d(1, 4, (1, 9))
    depthwise = nn.Conv2d(4, 8, (3, 1), groups=4)
    negative = nn.BatchNorm2d(4, eps=-1.0)
    for layers in (
        (filters, nn.Conv2d(1, 8, (3, 1))),
        (filters, nn.BatchNorm2d(1).eval(), depthwise),
        (filters, negative, depthwise),
        (filters, nn.BatchNorm2d(4).double(), depthwise),
        (filters, nn.Conv2d(4, 4, (1, 99)), depthwise),
        (filters, copy.deepcopy(depthwise).double()),
        (nn.Conv2d(1, 4, (1, 99)), depthwise),
    ):
        stock, fast = map(error_of, pair(nn.Sequential(*layers)))
        assert fast == stock
        assert stock is not None or negative in layers  # torch 2.7 accepts it


def test_batched_gradients_are_those_one_by_one():
    _, fast = pair(make_front(second=5))
    y = fast(windows(4, 3, 60)).mean(dim=(1, 2, 3))
    params = list(fast.parameters())
    rows = torch.eye(4, dtype=torch.float64)
    batched = torch.autograd.grad(
        y, params, rows, is_grads_batched=True, retain_graph=True
    )
    for i, row in enumerate(rows):
        alone = torch.autograd.grad(y, params, row, retain_graph=True)
        torch.testing.assert_close([b[i] for b in batched], list(alone))


# Windows


def test_windows_that_change_without_a_trace_are_noticed():
    stock, fast = pair(make_front())
    rng = np.random.default_rng(0)
    array = rng.integers(-9, 9, size=(4, 3, 60)).astype(float)  # have the same sum
    x, moved = torch.from_numpy(array), array[:, :, rng.permutation(60)]
    for values in (array.copy(), moved, 2 * moved):
        array[:] = values
        assert_equal(run(stock, x), run(fast, x))


@pytest.mark.parametrize("copied", [copy.deepcopy, pickled])
def test_moments_are_computed_once_a_step_and_are_not_copied(copied):
    def n_operations(model, x):
        return len(computed(model, x).names)

    spared = []
    for n_branches in (1, 2):
        fast = pair(make_front(n_branches=n_branches))[1]
        x = windows(4, 3, 60)
        fast(x)  # makes what depends on sizes only
        fast = copied(fast)
        first, again = n_operations(fast, x), copied(fast)
        second = n_operations(fast, x.clone())  # remembers the moments of x
        assert [n_operations(again, x) for _ in range(2)] == [first, second]
        assert n_operations(fast, 2 * x) > second
        spared.append(first - second)
    # Both branches share the moments, or two would spare twice as many operations.
    assert spared[0] == spared[1] > 0


def test_one_bad_window_spoils_no_other():
    others = [0, 2, 3]
    bad = [({}, float("nan")), ({"second": 5}, float("inf")), ({"is_full": True}, 1e30)]
    for options, value in bad:
        stock, fast = pair(make_front(**options).float().eval())
        x = torch.randn(4, 3, 60)
        x[1, 0, 7] = value
        expected, found = stock(x).detach(), fast(x).detach()
        assert expected[others].isfinite().all()
        alone = fast(x[others])
        torch.testing.assert_close(
            found[others], expected[others], rtol=1e-4, atol=1e-4
        )
        torch.testing.assert_close(found[others], alone, rtol=1e-5, atol=1e-5)


# Ways to run a model


def make_whole():
    """Front and later layers, all of which speed_up changes."""
    later = [nn.Conv2d(8, 8, (1, 5), padding="same").double(), nn.Dropout(0.5)]
    return nn.Sequential(*make_front(), *later)


def test_second_derivatives_are_those_of_the_stock_model():
    x = windows(4, 3, 60)
    for training in (True, False):
        results = []
        for model in pair(make_front(second=5)):
            params = list(model.train(training).parameters())
            with torch.inference_mode():
                model(x)
            loss = (model(x) ** 2).mean()
            first = torch.autograd.grad(loss, params, create_graph=True)
            second = torch.autograd.grad(
                sum(g.square().sum() for g in first), params, allow_unused=True
            )
            results.append([g for g in second if g is not None])
        scale = max(g.abs().max() for g in results[0])
        for stock, fast in zip(*results, strict=True):
            assert (stock - fast).abs().max() < 1e-9 * scale


def test_second_derivatives_of_a_value_that_was_read():
    layer = speed_one(make_front()[1][0])
    x = windows(2, 3, 60)[:, None]

    found = []
    for y in (nn.Conv2d.forward(layer, x), layer(x)):
        loss = (Doubled.apply(y) ** 3).sum()
        (grad,) = torch.autograd.grad(loss, layer.weight, create_graph=True)
        found.append(torch.autograd.grad(grad.square().sum(), layer.weight)[0])
    torch.testing.assert_close(*found)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_derivatives_in_forward_mode_are_those_of_the_stock_model():
    found, x = [], torch.randn(2, 3, 60, dtype=torch.float64)
    for model in pair(make_whole().eval()):
        params = {n: p.detach() for n, p in model.named_parameters()}
        with forward_ad.dual_level():
            dual = {
                n: forward_ad.make_dual(p, torch.ones_like(p))
                for n, p in params.items()
            }
            out = torch.func.functional_call(model, dual, (x,))
            found.append(forward_ad.unpack_dual(out).tangent)
    torch.testing.assert_close(*found)


def make_fast(cls):
    """An original and a fast model, and windows."""
    if cls is None:
        return *pair(make_whole().float().eval()), torch.randn(4, 3, 60)
    model = make_model(cls.__bases__[1].__name__)[0].float().eval()
    fast = cls(**model._braindecode_init_kwargs).eval()
    fast.load_state_dict(model.state_dict())
    return model, fast, torch.randn(4, 6, 400)


BATCH = ({0: torch.export.Dim("batch", min=2, max=64)},)


def exported(fast, x, strict=False):
    return torch.export.export(fast, (x,), dynamic_shapes=BATCH, strict=strict).module()


MADE = {
    "exported": exported,
    "strictly exported": functools.partial(exported, strict=True),
    "compiled": lambda fast, x: torch.compile(fast, backend="eager", fullgraph=True),
    "traced": torch.jit.trace,
    "traced below autograd": lambda fast, x: make_fx(fast)(x),
    "traced by fx": lambda fast, x: torch.fx.symbolic_trace(fast),
    # Of a custom model, since braindecode's parametrized ones cannot be scripted.
    "scripted": lambda fast, x: torch.jit.script(fast),
}
CASES = [(how, None) for how in MADE if how != "strictly exported"]
MORE = [("strictly exported", None)]
MORE += itertools.product(
    ["exported", "strictly exported", "compiled"], [FastEEGNeX, FastEEGNet]
)


@pytest.mark.filterwarnings("ignore")  # of what torch will change
@pytest.mark.parametrize(
    ("how", "cls"), [*CASES, *(pytest.param(*case, marks=FULL) for case in MORE)]
)
def test_models_can_be_exported_and_compiled(how, cls):
    torch.compiler.reset()
    stock, fast, x = make_fast(cls)
    before = [type(m) for m in fast.modules()]
    made = MADE[how](fast, x)
    other = x if "traced" in how or how == "scripted" else torch.randn(7, *x.shape[1:])
    torch.testing.assert_close(made(other), stock(other))
    assert [type(m) for m in fast.modules()] == before


@FULL
@pytest.mark.filterwarnings("ignore")  # of what torch will change
@pytest.mark.parametrize("cls", [None, FastEEGNeX, FastEEGNet])
def test_models_can_be_exported_to_onnx(cls):
    _, fast, x = make_fast(cls)
    assert torch.onnx.export(fast, (x,), dynamo=True, dynamic_shapes=BATCH)


def test_function_transforms_give_what_the_stock_model_gives():
    stock, fast = pair(make_whole().eval())
    x = windows(4, 3, 60)
    weights = {n: p.detach() + 0.1 for n, p in stock.named_parameters()}
    found = []
    for model in (stock, fast):

        def call(weights, window, model=model):
            return torch.func.functional_call(model, weights, (window[None],)).sin()

        of_each = torch.func.vmap(
            torch.func.grad(lambda *args, call=call: call(*args).sum()), (None, 0)
        )
        found.append((call(weights, x[0]), of_each(weights, x)))
    torch.testing.assert_close(*found)


def test_autocast_costs_no_more_digits_than_in_the_stock_model():
    stock, fast = pair(make_front(20, n_taps=25).float().eval())
    x = torch.randn(8, 20, 200)
    truth = stock(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not maps(fast, x)
        outs = [model(x) for model in (stock, fast)]
        assert outs[0].dtype == outs[1].dtype
        waiting, expected = [fast[:2](x), fast[:2](x)], stock[:2](x).float()
        assert torch.equal(waiting[0].float(), expected)
    assert torch.equal(waiting[1].float(), expected)
    errors = [(out.float() - truth).abs().max() for out in outs]
    assert errors[1] <= 1.5 * errors[0]


def test_nothing_of_inference_mode_and_no_grad_is_kept():
    # Of sizes of their own: what depends on sizes only is made within these modes.
    stock, fast = pair(make_front(n_taps=11, second=5))
    x = torch.randn(4, 3, 83, dtype=torch.float64)
    for context in (torch.inference_mode, torch.no_grad):
        with context():
            torch.testing.assert_close(fast(x), stock(x))
        assert_equal(run(stock, x), run(fast, x))
    with torch.inference_mode():
        inside = x + 1
        torch.testing.assert_close(fast(inside), stock(inside))


def test_nothing_of_fake_tensors_is_kept():
    stock, fast = pair(make_front(n_taps=11, second=5)[1:].eval())
    x = torch.randn(4, 1, 3, 89, dtype=torch.float64)
    for _ in range(2):
        with FakeTensorMode(allow_non_fake_inputs=True):
            assert fast(x).shape == (4, 10, 1, 89)
        assert_equal(run(stock, x), run(fast, x))


def test_what_is_kept_for_each_size_is_limited():
    fast = pair(make_front(second=5).eval())[1]

    def living(lengths):
        for n_times in lengths:
            fast(torch.ones(1, 3, n_times, dtype=torch.float64))
        gc.collect()
        return sum(type(thing) is torch.Tensor for thing in gc.get_objects())

    before = living(range(40, 80))
    assert living(range(80, 120)) < before + 20  # less than one for each size
