"""Dropout that reuses masks, compared with torch's."""

import copy
import pickle

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from braindecode_sam import SAM
from braindecode_sam.models._dropout import DropoutReplay

X = torch.linspace(-1, 1, 6000).reshape(20, 3, 100)


def drop(layer, x, state):
    torch.set_rng_state(state)
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    y = layer(x)
    (y**2).sum().backward()
    return y.detach(), x.grad, torch.get_rng_state()


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.73, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("layout", ["contiguous", "transposed"])
def test_same_masks_and_random_numbers_as_torch(p, dtype, layout):
    x = X.to(dtype)
    x = x.transpose(0, 2) if layout == "transposed" else x
    state = torch.get_rng_state()
    expected = drop(torch.nn.Dropout(p), x, state)
    layer = DropoutReplay(p)
    for _ in range(2):  # drawn, then remembered
        for a, b in zip(expected, drop(layer, x, state), strict=True):
            assert torch.equal(a, b)


def test_a_mask_is_remembered_for_its_state_only():
    layer = DropoutReplay()
    state = torch.get_rng_state()
    first = drop(layer, X, state)[0]
    mask = layer.__dict__["_drawn"].mask
    assert torch.equal(drop(layer, X, state)[0], first)
    assert layer.__dict__["_drawn"].mask is mask
    assert not torch.equal(layer(X), first)  # the generator has gone on
    torch.set_rng_state(state)
    assert layer(X[:2]).shape == X[:2].shape
    layer.p = 0.9
    assert (drop(layer, X, state)[0] == 0).float().mean() > 0.8


def test_a_step_of_sam_draws_one_mask():
    torch.manual_seed(0)
    layer = DropoutReplay()
    model = torch.nn.Sequential(torch.nn.Linear(100, 5), layer)
    optimizer, masks = SAM(model.parameters(), torch.optim.SGD, lr=0.1), []

    def closure():
        optimizer.zero_grad()
        loss = model(X).square().mean()
        masks.append(layer.__dict__["_drawn"].mask)
        loss.backward()
        return loss

    optimizer.step(closure)
    optimizer.step(closure)
    assert masks[0] is masks[1]
    assert masks[2] is masks[3]
    assert not torch.equal(masks[0], masks[2])


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda n: pickle.loads(pickle.dumps(n))]
)
def test_masks_are_not_copied(copied):
    layer = DropoutReplay()
    layer(X)
    assert "_drawn" in layer.__dict__
    assert "_drawn" not in copied(layer).__dict__


def test_is_found_by_the_name_of_dropout():
    assert DropoutReplay.__name__.startswith("Dropout")  # as Monte Carlo dropout does


def test_keeps_nothing_of_other_modes():
    layer = DropoutReplay()
    layer.eval()(X)
    layer.train()
    with torch.inference_mode():
        layer(X)
    torch.func.grad(lambda x: layer(x).sum())(X)
    torch.vmap(layer, randomness="different")(X)
    torch.compile(layer, backend="eager")(X)
    with FakeTensorMode(allow_non_fake_inputs=True):
        layer(torch.ones(3))
    layer.inplace = True
    layer(X.clone())
    assert "_drawn" not in layer.__dict__
