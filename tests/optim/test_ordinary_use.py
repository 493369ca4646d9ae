"""Ordinary uses in which a wrapper of optimizers can easily be silently wrong."""

import contextlib

import pytest
import torch

from braindecode_sam import SAM
from braindecode_sam.optim import FriendlySAM, MomentumSAM
from tests.optim.helpers import Problem, assert_same, save_and_load, small_net

SGD = torch.optim.SGD


# Copies of the weights that torch caches


def losses_of_two_steps(cls, is_around):
    """The first step gives MomentumSAM its momentum."""
    torch.manual_seed(0)
    problem = Problem(small_net(dropout=0))
    optimizer = cls(problem.net.parameters(), SGD, lr=0.0, rho=2.0, momentum=0.9)
    closure = problem.closure(optimizer)
    autocast = torch.autocast("cpu", torch.bfloat16)
    if not is_around:
        closure = autocast(closure)
    with autocast if is_around else contextlib.nullcontext():
        optimizer.step(closure)
        optimizer.step(closure)
    return optimizer.last_loss, optimizer.last_perturbed_loss


@pytest.mark.parametrize("cls", [SAM, FriendlySAM, MomentumSAM])
def test_autocast_around_steps_acts_inside_them(cls):
    inside, around = (losses_of_two_steps(cls, around) for around in (False, True))
    for first, second in zip(inside, around, strict=True):
        assert first is second is None or torch.equal(first, second)
    if cls is SAM:
        assert around[1] > around[0] * 1.1


def test_two_steps_in_one_autocast_use_the_perturbed_weights():
    problem = Problem(small_net(dropout=0))
    optimizer = SAM(problem.net.parameters(), SGD, lr=0.0, rho=2.0)
    with torch.autocast("cpu", torch.bfloat16):
        problem.closure(optimizer)()
        clean = problem.loss().item()
        optimizer.first_step(zero_grad=True)
        perturbed = problem.loss()
        perturbed.backward()
        optimizer.second_step()
        assert problem.loss().item() == clean
    assert perturbed.item() > 1.1 * clean


# Maximizing


@pytest.mark.parametrize(
    ("cls", "where"),
    [(SAM, "constructor"), (SAM, "group"), (MomentumSAM, "constructor")],
)
def test_to_maximize_is_to_minimize_the_negative(cls, where):
    results = []
    for maximize in (False, True):
        torch.manual_seed(0)
        problem = Problem(small_net(dropout=0))
        sign = -1 if maximize else 1
        loss = problem.loss
        problem.loss = lambda loss=loss, sign=sign: sign * loss()
        params = problem.net.parameters()
        options = {"lr": 0.1, "momentum": 0.9, "rho": 0.3}
        if where == "group":
            params = [{"params": params, "maximize": maximize}]
        else:
            options["maximize"] = maximize
        optimizer = cls(params, SGD, **options)
        found = problem.train(optimizer, 6)
        results.append([sign * value for value in found])
    assert results[0] == pytest.approx(results[1], rel=1e-6)


# Parameters that SAM does not perturb


def test_lazy_parameters_are_trained():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.LazyLinear(8), torch.nn.LazyBatchNorm1d())
    net.append(torch.nn.LazyLinear(1))
    problem = Problem(net)
    optimizer = SAM(net.parameters(), SGD, lr=0.1, rho=0.5)
    losses = problem.train(optimizer, 3)
    assert optimizer.last_perturbed_loss > optimizer.last_loss
    assert losses[-1] < losses[0]
    assert net[1].num_batches_tracked == 3


FROZEN = {
    "integers": lambda: torch.ones(3, dtype=torch.int64),
    "booleans": lambda: torch.ones(3, dtype=torch.bool),
    "float8": lambda: torch.ones(3).to(torch.float8_e4m3fn),
    "sparse": lambda: torch.eye(3).to_sparse(),
    "quantized": lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
    "floats": lambda: torch.ones(3),
}


@pytest.mark.parametrize(
    ("name", "cls"),
    list(zip(FROZEN, [SAM, FriendlySAM, MomentumSAM] * 2, strict=True)),
)
@pytest.mark.filterwarnings("ignore:.*[Qq]uantiz.*")
def test_frozen_parameters_of_any_kind_stay(name, cls):
    problem = Problem()
    frozen = torch.nn.Parameter(FROZEN[name](), requires_grad=False)
    params = [frozen, *problem.net.parameters()]
    before = frozen.detach().clone()
    for adaptive in (False, True):
        optimizer = cls(params, SGD, lr=0.1, momentum=0.9, rho=0.5, adaptive=adaptive)
        problem.train(optimizer, 3)
        optimizer.load_state_dict(save_and_load(optimizer.state_dict()))
        problem.train(optimizer, 1)
    assert torch.equal(before.to_dense(), frozen.detach().to_dense())


def test_a_layer_that_is_unfrozen_during_training_is_trained():
    problem = Problem(small_net(dropout=0))
    problem.net[3].requires_grad_(False)
    optimizer = SAM(problem.net.parameters(), SGD, lr=0.1, rho=0.5)
    frozen = problem.net[3].weight.clone()
    problem.train(optimizer, 2)
    assert torch.equal(problem.net[3].weight, frozen)
    problem.net[3].requires_grad_(True)
    problem.train(optimizer, 2)
    assert not torch.equal(problem.net[3].weight, frozen)


def test_a_closure_without_zero_grad_steps_along_the_second_gradient():
    """The closure is that of davda54/sam's README."""
    results = []
    for train in (None, Problem.train):
        torch.manual_seed(0)
        problem = Problem(small_net(dropout=0))
        optimizer = SAM(problem.net.parameters(), SGD, lr=0.1, rho=0.5)

        def closure(problem=problem):
            loss = problem.loss()
            loss.backward()
            return loss

        for _ in range(3):
            optimizer.step(closure) if train is None else train(problem, optimizer, 1)
            optimizer.zero_grad()
        results.append(problem.snapshot())
    assert_same(*results)
