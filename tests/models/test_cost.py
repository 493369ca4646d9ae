"""Each call takes the way that is estimated to be faster, unless it is forced."""

import copy

import pytest
import torch
from braindecode.models import EEGNet, EEGNeX
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from braindecode_sam import FastEEGNet, FastEEGNeX, speed_up, unspeed
from tests.models.helpers import (
    Applied,
    assert_equal,
    computed,
    fronts,
    joined,
    make_front,
    run,
    windows,
)

pytestmark = pytest.mark.usefixtures("by_cost")
SIZE = {"n_chans": 8, "n_times": 250, "n_outputs": 2}


def is_deferred(model, x, grad=True):
    """Whether a layer receives a tensor without values."""
    types = set()
    hook = register_module_forward_pre_hook(
        lambda m, args: types.update(type(x) for x in args)
    )
    with torch.set_grad_enabled(grad):
        model(x)
    hook.remove()
    return bool(types - {torch.Tensor, nn.Parameter})


@pytest.mark.parametrize("name", ["train_from", "predict_from"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_table_says_from_which_batch_on_a_layer_pays(name, dtype):
    training = name == "train_from"
    model = EEGNet(**SIZE).to(dtype)
    smallest = int(fronts(speed_up(model))[name].item())
    assert smallest > 1
    model.train(training)
    for batch in (1, smallest - 1, smallest, 2 * smallest):
        x = torch.randn(batch, 8, 250, dtype=dtype)
        assert is_deferred(model, x, training) == (batch >= smallest)


def test_a_layer_that_pays_for_no_batch_is_restored_unless_it_is_forced():
    small = make_front(n_chans=2, n_filters=1, n_taps=3, depth=16)
    assert fronts(speed_up(small, input_shape=(1, 2, 60))).empty
    found = fronts(speed_up(small, input_shape=(1, 2, 60), force=True))
    assert found["pattern"].tolist() == ["depthwise"]
    assert found[["train_from", "predict_from"]].isna().all(axis=None)
    assert is_deferred(small, windows(1, 2, 60))


def test_force_is_an_argument_or_a_variable(monkeypatch):
    x = torch.randn(1, 8, 250)
    assert not is_deferred(FastEEGNet(**SIZE), x)
    monkeypatch.setenv("BRAINDECODE_SAM_FORCE", "1")
    model = FastEEGNet(**SIZE)
    assert is_deferred(model, x)
    assert is_deferred(copy.deepcopy(model), x)
    speed_up(model, force=False)
    assert not is_deferred(model, x)


def test_both_ways_give_the_values_of_the_stock_model():
    stock = EEGNeX(**SIZE, drop_prob=0.0).double()
    fast = copy.deepcopy(stock)
    smallest = int(fronts(speed_up(fast))["train_from"].item())
    for batch in (2, smallest):
        x = windows(batch, 8, 250)
        assert not is_deferred(stock, x)  # and moves the statistics of both
        assert is_deferred(fast, x) == (batch == smallest)
        assert_equal(run(stock, x), run(fast, x))


def test_branches_with_filters_of_other_lengths_decide_together():
    """Unlike in TCFormer, the windows that they read may differ by their padding."""
    torch.manual_seed(0)
    branches = [
        nn.Sequential(nn.ConstantPad2d((n // 2, (n - 1) // 2, 0, 0), 0.0), conv)
        for n in (9, 60)
        for conv in [nn.Conv2d(1, 8, (1, n))]
    ]
    spatial = nn.Conv2d(16, 32, (8, 1), groups=16)
    model = nn.Sequential(nn.Unflatten(1, (1, 8)), Applied(joined, *branches), spatial)
    smallest = set(fronts(speed_up(model, input_shape=(1, 8, 100)))["train_from"])
    assert len(smallest) == 1
    for n_windows in range(1, max(smallest) + 1):
        x = torch.randn(n_windows, 8, 100)
        assert is_deferred(model, x) == (n_windows in smallest)


def test_force_also_concerns_later_convolutions():
    model, x = EEGNeX(**SIZE), torch.randn(1, 8, 250)
    numbers = []
    for force in (True, False, True):
        speed_up(model, force=force)
        numbers.append(len(computed(model, x).convolutions))
    assert numbers[0] == numbers[2] < numbers[1]


def test_later_convolutions_use_the_fft_only_where_it_pays():
    numbers = []
    for batch in (1, 128):
        x = torch.randn(batch, 8, 250)
        stock, fast = (cls(**SIZE) for cls in (EEGNeX, FastEEGNeX))
        numbers.append(
            [len(computed(model, x).convolutions) for model in (stock, fast)]
        )
    (stock, fast), (stock_of_many, fast_of_many) = numbers
    assert stock == stock_of_many
    # The front, and the later ones.
    assert fast_of_many < fast - 2


def test_without_a_shape_a_layer_is_deferred_once_to_see_what_follows():
    model, x = make_front(8), windows(1, 8, 60)
    assert speed_up(model)["train_from"].isna().all()
    assert [is_deferred(model, x) for _ in range(3)] == [True, False, False]
    assert is_deferred(copy.deepcopy(model), windows(400, 8, 60))


def test_without_a_shape_a_layer_whose_output_is_read_does_not_wait_again():
    front = make_front(22, n_taps=25)
    front[2] = Applied(lambda layer, x: layer(x.relu()), front[2])
    speed_up(front)
    front(windows(64, 22, 200))
    types = []
    front[1][1].register_forward_pre_hook(lambda m, args: types.append(type(args[0])))
    front(windows(64, 22, 200))
    assert types == [torch.Tensor]


class KeepsMaps(nn.Module):
    """A model that keeps its maps, for class activation maps."""

    def __init__(self, where):
        super().__init__()
        self.time = nn.Conv2d(1, 8, (1, 25), padding="same")
        self.space = nn.Conv2d(8, 16, (20, 1), groups=8)
        self.where, self.kept = where, []

    def forward(self, x):
        maps = self.time(x[:, None])
        if self.where == "attribute":
            self.maps = maps
        elif self.where == "list":
            self.kept.append(maps)
        y = self.space(maps).relu().mean(dim=-1).flatten(1)
        return (y, maps) if self.where == "returned" else y


@pytest.mark.parametrize("where", ["attribute", "list", "returned"])
def test_maps_that_a_model_keeps_have_gradients(where):
    model = KeepsMaps(where)
    assert fronts(speed_up(model, input_shape=(1, 20, 200), force=True)).empty
    found = model(torch.randn(4, 20, 200))
    if where == "returned":
        y, kept = found
    else:
        y, kept = found, model.maps if where == "attribute" else model.kept[-1]
    assert torch.autograd.grad(y.sum(), kept)[0].any()


def test_a_model_that_moves_to_another_kind_of_device_runs_its_layers():
    model = FastEEGNet(**SIZE).to("meta")
    assert model(torch.empty(64, 8, 250, device="meta")).shape == (64, 2)


def test_a_value_that_outlives_unspeed_is_that_of_the_layer():
    layer = make_front(20, n_taps=25)
    speed_up(layer)
    x = windows(4, 20, 200)
    pending = layer[1](layer[0](x))
    unspeed(layer)
    torch.testing.assert_close(pending + 0, layer[1](layer[0](x)))
