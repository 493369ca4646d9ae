"""speed_up on any model, with anything between its first layers."""

import copy
import functools
import logging
import pickle
import re

import braindecode.models
import pytest
import torch
from braindecode.models.util import models_dict, models_mandatory_parameters
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm
from torch.utils.checkpoint import checkpoint

from braindecode_sam import speed_up, unspeed
from tests.models.helpers import (
    FRONTS,
    KINDS,
    Applied,
    Doubled,
    assert_equal,
    fronts,
    kinds,
    make_front,
    make_model,
    maps,
    pair,
    run,
    windows,
)

FULL = pytest.mark.full
HAS_AVX512 = torch.backends.cpu.get_cpu_capability() == "AVX512"

# Every pattern, every option


@settings(max_examples=60)
@given(
    n_chans=st.integers(1, 4),
    n_times=st.integers(30, 70),
    n_taps=st.integers(2, 40),  # one tap stays as it is
    padding=st.sampled_from(["same", "valid", 0, 3, 12]),
    second=st.none() | st.integers(1, 12),
    is_full=st.booleans(),
    flags=st.tuples(*[st.booleans()] * 5),
    n_branches=st.integers(1, 2),
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 99),
)
@example(2, 30, 2, "same", 2, False, (False, True, False, True, False), 1, KINDS[0], 0)
def test_equals_the_stock_layers(
    n_chans, n_times, n_taps, padding, second, is_full, flags, n_branches, kind, seed
):
    bias, norm, time_first, training, affine = flags
    pads = padding if isinstance(padding, int) else (n_taps if padding == "same" else 0)
    assume(n_times + 2 * pads - n_taps - (second or 0) > 3)
    assume(n_chans > 1 or not kind.endswith("channel"))  # nothing but a constant
    options = {"affine": affine, "eps": 1e-3} if norm else {}
    front = make_front(
        n_chans, n_taps=n_taps, padding=padding, bias=bias, norm=norm, second=second,
        is_full=is_full, time_first=time_first, n_branches=n_branches, **options,
    )  # fmt: skip
    stock, fast = pair(front.train(training))  # even what does not pay
    x = windows(3, n_chans, n_times, seed, kind)
    # An offset of 1e4 costs the original layers as many digits as ours, and 1e-12 times
    # it is left where all gradients vanish.
    limits = (1e-5, 1e-6) if "offset" in kind else ()
    assert_equal(run(stock, x), run(fast, x), *limits)


@pytest.mark.parametrize(
    ("options", "pattern"),
    [
        ({}, "depthwise"),
        ({"second": 5}, "depthwise"),
        ({"time_first": True, "n_branches": 2}, "depthwise"),
        ({"is_full": True, "norm": False, "padding": 0}, "merged kernel"),
        ({"is_full": True}, "merged kernel"),
    ],
    ids=str,
)
def test_patterns_that_get_faster(options, pattern):
    stock = make_front(20, n_taps=25, n_filters=8, **options)
    fast = copy.deepcopy(stock)
    found = fronts(speed_up(fast, input_shape=(1, 20, 200)))
    assert set(found["pattern"]) == {pattern}
    assert found["train_from"].notna().all()
    x = torch.randn(200, 20, 4, dtype=torch.float64).permute(2, 1, 0)
    assert_equal(run(stock, x), run(fast, x))
    assert fast(x).is_contiguous()
    assert len(maps(stock, x)) > len(maps(fast, x)) == 0


# braindecode's models

# REVE downloads the positions of electrodes, DANCE needs over 20 GB in float64, and
# CodeBrain and SyncNet do not run in it.
ALL = {entry[0] for entry in models_mandatory_parameters} & {*models_dict}
ALL -= {"REVE", "DANCE", "CodeBrain", "SyncNet"}
# Of different kinds: each pattern of a front, an activation or a sum behind the first
# layer, long filters later or of several channels, recurrent layers, transformers.
SOME = [
    "AttentionBaseNet", "BIOT", "ContraWR", "EEGConformer", "EEGInceptionERP",
    "EEGInceptionMI", "EEGNet", "EEGNeX", "EEGTCNet", "FBCNet", "IFNet", "MSVTNet",
    "ShallowFBCSPNet", "TCFormer", "TIDNet", "USleep",
]  # fmt: skip


@pytest.mark.filterwarnings("ignore")  # of what these models think of small windows
@pytest.mark.parametrize("training", [True, pytest.param(False, marks=FULL)])
@pytest.mark.parametrize(
    "name",
    [name if name in SOME else pytest.param(name, marks=FULL) for name in sorted(ALL)],
)
def test_every_model_computes_the_same_and_comes_back_as_it_was(
    name, training, monkeypatch
):
    try:
        (model, shape), (fast, _) = make_model(name), make_model(name)
    except Exception as error:
        if name in SOME:
            raise
        pytest.skip(f"is not built from signal parameters alone: {error!r:.200}")
    if sum(p.numel() for p in fast.parameters()) > 2e6:  # which would take minutes
        monkeypatch.delenv("BRAINDECODE_SAM_FORCE")
    before = kinds(fast)
    state, random = copy.deepcopy(fast.state_dict()), torch.get_rng_state()
    found = speed_up(fast)
    assert len(fronts(found)) > 0 or name not in FRONTS
    assert torch.equal(torch.get_rng_state(), random)
    for key, value in fast.state_dict().items():
        assert torch.equal(value, state[key]), key
    n_windows = 4 if shape[2] < 5000 else 2  # which take much memory
    x = torch.randn(n_windows, *shape[1:], dtype=torch.float64)
    assert_equal(run(model.train(training), x), run(fast.train(training), x))
    if name in FRONTS:
        assert len(maps(model, x)) > len(maps(fast, x)) == 0
    assert unspeed(fast.train(model.training)) == found["layer"].tolist()
    fast.train()
    assert kinds(fast) == before


# Layers in between receive the values of the original layers


class Normalized(torch.autograd.Function):
    """Normalizes, with another gradient."""

    @staticmethod
    def forward(ctx, x):
        mean, var = torch.full((2, 4), 2.0, dtype=torch.float64)
        return nn.functional.batch_norm(x, mean, var)

    @staticmethod
    def backward(ctx, grad):
        return 2 * grad


def followed_by(function):
    return lambda layer, seen: nn.Sequential(layer, function)


def recomputed(use_reentrant):
    """The forward pass saves nothing for the backward pass."""
    run = functools.partial(checkpoint, use_reentrant=use_reentrant)
    return lambda layer, seen: Applied(lambda layer, x: run(layer, x), layer)


def recomputed_with_activation(layer, x):
    return checkpoint(lambda x: layer(x.relu()), x, use_reentrant=False)


def recomputed_in_two_parts(layer, seen):
    def run(layers, x):
        for layer in layers:
            x = checkpoint(layer, x, use_reentrant=False)
        return x

    return Applied(run, layer)


def hooked(kind, function):
    """A hook, which may note what it sees."""

    def register(layer, seen):
        hook = functools.partial(function, seen)
        getattr(layer, f"register_{kind}_hook")(hook)

    return register


def with_attributes(**attributes):
    return lambda layer, seen: [setattr(layer, *item) for item in attributes.items()]


def with_another_bias(layer, seen):
    layer.bias = nn.Parameter(torch.ones(4, dtype=torch.float64))


def with_another_forward(layer, seen):
    layer.forward = lambda x: nn.functional.conv2d(x, layer.weight, padding="same") ** 2


def with_a_wrapped_forward(layer, seen):
    forward = layer.forward
    layer.forward = lambda x: forward(x).abs()


def with_another_convolution(layer, seen):
    layer._conv_forward = lambda x, weight, bias: nn.functional.conv2d(
        x, 2 * weight, bias, padding="same"
    )


def rectified_in_place(x):
    x.relu_()
    return x


def circular(layer, seen):
    return nn.Conv2d(1, 4, (1, 9), padding="same", padding_mode="circular")


FILTERS, NORM, SPATIAL = "1.0", "1.1", "2"
# A layer, and a function that changes it or returns another one for its place. Hooks
# append what they see to the list `seen`.
CHANGES = {
    "hook": (FILTERS, hooked("forward", lambda seen, m, x, y: seen.append(y.sum()))),
    "changing hook": (FILTERS, hooked("forward", lambda seen, m, x, y: y.relu())),
    "changing hook in place": (
        FILTERS, hooked("forward", lambda seen, m, x, y: seen.append(y.relu_().sum())),
    ),
    "hook on the norm": (
        NORM, hooked("forward", lambda seen, m, x, y: seen.append(y.std())),
    ),
    "pre-hook": (SPATIAL, hooked("forward_pre", lambda seen, m, x: (x[0] * 2,))),
    "backward hook": (
        SPATIAL, hooked("full_backward", lambda seen, m, x, y: seen.append(y[0].sum())),
    ),
    "backward pre-hook": (
        NORM, hooked("full_backward_pre", lambda seen, m, y: seen.append(y[0].sum())),
    ),
    "changed gradients": (
        NORM, hooked("full_backward", lambda seen, m, x, y: (x[0] * 2,)),
    ),
    "activation": (FILTERS, followed_by(nn.ELU())),
    "activation in place": (NORM, followed_by(Applied(rectified_in_place))),
    "dropout": (NORM, followed_by(nn.Dropout(0.5))),
    "autograd function": (NORM, followed_by(Applied(Doubled.apply))),
    "more filters": (NORM, followed_by(nn.Conv2d(4, 4, (1, 5), groups=4))),
    "stride": (FILTERS, with_attributes(stride=(1, 2), padding=(0, 4))),
    "dilation": (FILTERS, with_attributes(dilation=(1, 2))),
    "circular padding": (FILTERS, circular),
    "another bias": (FILTERS, with_another_bias),
    "another forward": (FILTERS, with_another_forward),
    "another convolution": (FILTERS, with_another_convolution),
    "wrapped norm": (NORM, with_a_wrapped_forward),
    "spectral norm": (FILTERS, lambda layer, seen: spectral_norm(layer)),
    "weight norm": (SPATIAL, lambda layer, seen: weight_norm(layer)),
    "frozen filters": (FILTERS, lambda layer, seen: layer.requires_grad_(False)),
    "norm in eval mode": (NORM, lambda layer, seen: layer.eval()),
    "cumulative norm": (NORM, with_attributes(momentum=None)),
    "another norm": (NORM, lambda layer, seen: nn.InstanceNorm2d(4, affine=True)),
    "norm without statistics": (
        NORM, lambda layer, seen: nn.BatchNorm2d(4, track_running_stats=False),
    ),
    "norm in a function": (NORM, lambda layer, seen: Applied(Normalized.apply)),
    "recomputed": (SPATIAL, recomputed(use_reentrant=False)),
    "recomputed with an activation": (
        SPATIAL,
        lambda layer, seen: Applied(recomputed_with_activation, layer),
    ),
    "recomputed norm and activation": (
        NORM,
        lambda layer, seen: recomputed(False)(nn.Sequential(layer, nn.ELU()), seen),
    ),
    "recomputed norm, not reentrant": (NORM, recomputed(use_reentrant=False)),
    "recomputed, reentrant": (SPATIAL, recomputed(use_reentrant=True)),
    "recomputed in two parts": ("1", recomputed_in_two_parts),
    "recomputed norm": (NORM, recomputed(use_reentrant=True)),
    "second reader": (
        SPATIAL,
        lambda layer, seen: Applied(lambda layer, x: layer(x) + x.mean(), layer),
    ),
    "half of the channels": (
        SPATIAL, lambda layer, seen: nn.Conv2d(4, 4, (2, 1), groups=4),
    ),
    "two groups": (SPATIAL, lambda layer, seen: nn.Conv2d(4, 8, (3, 1), groups=2)),
}  # fmt: skip
# Each once; a few also in evaluation mode, or before speed_up sees the layers.
CASES = [(change, "after", True) for change in CHANGES] + [
    ("circular padding", "before", True),
    ("hook on the norm", "after", False),
    ("second reader", "after", False),
    ("recomputed norm", "after", False),
    ("hook", "before", True),
    ("another forward", "before", True),
    ("spectral norm", "before", True),
    ("weight norm", "before", False),
]


def change_layer(model, change, seen):
    place, function = CHANGES[change]
    changed = function(model.get_submodule(place), seen)
    if isinstance(changed, nn.Module):
        model.set_submodule(place, changed.double())


@pytest.mark.parametrize(("change", "when", "training"), CASES)
def test_changed_layers_do_what_they_do_in_the_stock_model(change, when, training):
    results, notes = [], []
    x = torch.randn(4, 3, 60, dtype=torch.float64)
    for is_fast in (False, True):
        model = make_front().train(training)
        if is_fast and when == "after":
            speed_up(model)
        torch.manual_seed(5)
        seen = []
        change_layer(model, change, seen)
        if is_fast and when == "before":
            speed_up(model)
        results.append(run(model, x))
        notes.append(seen)
    assert_equal(*results)
    for stock, fast in zip(*notes, strict=True):
        torch.testing.assert_close(fast, stock)


@pytest.mark.parametrize("change", ["activation", "second reader", None])
def test_layers_that_do_not_pay_are_turned_back(change, by_cost):
    model = make_front(20, n_taps=25) if change else make_front(depth=8)
    if change:
        change_layer(model, change, [])
    for layer in model.modules():
        if isinstance(layer, nn.ELU):
            layer.alpha = 0.5
    before = kinds(model)
    assert speed_up(model, input_shape=(1, 20 if change else 3, 60)).empty
    assert kinds(model) == before


# speed_up and unspeed


def test_what_is_returned_and_printed(capsys, caplog):
    model = braindecode.models.EEGNet(n_chans=8, n_outputs=2, n_times=200)
    with caplog.at_level(logging.INFO):
        found = speed_up(model, verbose=True)
    assert list(found.columns) == ["layer", "pattern", "train_from", "predict_from"]
    assert dict(zip(found["layer"], found["pattern"], strict=True)) == {
        "conv_temporal": "depthwise",
        "drop_1": "mask",
        "conv_separable_depth": "FFT",
        "drop_2": "mask",
        "final_layer.conv_classifier": "FFT",
    } | ({"elu_1": "exp", "elu_2": "exp"} if HAS_AVX512 else {})
    assert "conv_temporal depthwise" in capsys.readouterr().out
    assert "conv_temporal gets faster: depthwise" in caplog.text
    assert speed_up(model).equals(found)  # a second time changes nothing
    assert speed_up(nn.Linear(2, 2), verbose=True).empty
    assert capsys.readouterr().out == "No layer gets faster.\n"


def test_wrong_arguments_are_refused():
    match = "must be a torch.nn.Module, got 'EEGNet'; for a skorch net"
    with pytest.raises(TypeError, match=match):
        speed_up("EEGNet")
    with pytest.raises(TypeError, match=r"must be a torch\.nn\.Module, got <class"):
        speed_up(nn.Linear)
    for shape in (5, (1, 2.5)):
        match = re.escape(f"(1, n_chans, n_times), got {shape!r}")
        with pytest.raises(TypeError, match=f"the shape of a batch of .*{match}"):
            speed_up(nn.Linear(2, 2), input_shape=shape)


def test_what_cannot_run_yet_is_not_tried():
    half, meta, lazy = (make_front(20, n_taps=25) for _ in range(3))
    half.half()
    meta.to("meta")
    lazy[1][1] = nn.LazyBatchNorm2d().double()
    for model in (half, meta, lazy):
        found = speed_up(model, input_shape=(1, 20, 60))
        assert set(found["pattern"]) == {"not tried"}
    assert not maps(half.double(), torch.randn(4, 20, 60, dtype=torch.float64))


def test_a_compiled_module_gains_nothing_and_says_so(caplog):
    speed_up(torch.compile(make_front(20), backend="eager"))
    assert "compiled by torch.compile run the original layers" in caplog.text


def test_windows_that_need_gradients_and_why_a_layer_falls_back(caplog):
    stock, fast = pair(make_front())
    gradients = []
    with caplog.at_level(logging.DEBUG):
        for model in (stock, fast, fast):
            x = windows(4, 3, 60).requires_grad_()
            model(x).sum().backward()
            gradients.append(x.grad)
    torch.testing.assert_close(*gradients[:2])
    told = [r.message for r in caplog.records]  # once
    assert told == ["1.0 is not deferred: its input requires gradients"]


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
    model.input_shape = None  # of another meaning
    assert set(speed_up(model)["pattern"]) == {"not tried"}


def test_models_inside_of_others_keep_parameters_hooks_and_buffers():
    model = nn.ModuleDict({"model": make_model("EEGNeX")[0], "other": nn.Linear(2, 2)})
    parameters, seen = list(model.parameters()), []
    model["model"].block_2.register_buffer("n_calls", torch.zeros(1))

    def count(module, args, output):
        module.n_calls += torch.rand(1).ceil()
        seen.append(module.training)

    model["model"].block_2.register_forward_hook(count)
    random = torch.get_rng_state()
    found = speed_up(model)
    assert torch.equal(torch.get_rng_state(), random)
    assert fronts(found)["layer"].tolist() == ["model.block_1.1"]
    assert all(a is b for a, b in zip(parameters, model.parameters(), strict=True))
    assert model["model"].block_2.n_calls == 0
    model["model"](torch.randn(2, 6, 400, dtype=torch.float64))
    assert seen == [False, True]


@pytest.mark.filterwarnings("ignore")
def test_parametrized_filters_get_faster_and_are_copied():
    model, _ = make_model("ATCNet", conv_max_norm_const=0.6)
    fast, _ = make_model("ATCNet", conv_max_norm_const=0.6)
    fast.load_state_dict(model.state_dict())
    assert len(fronts(speed_up(fast))) == 1
    x = torch.randn(4, 6, 400, dtype=torch.float64)
    assert_equal(run(model, x), run(fast, x))
    again = pickle.loads(pickle.dumps(copy.deepcopy(fast)))
    assert_equal(run(model.eval(), x), run(again.eval(), x))
    assert not maps(again, x)
