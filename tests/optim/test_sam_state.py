"""Promise 6: saving, loading, copying, pickling, groups and schedulers."""

import copy
import functools
import pickle

import numpy as np
import pytest
import torch
from torch.optim import lr_scheduler
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from braindecode_sam import SAM
from braindecode_sam.optim import GSAM, FriendlySAM, MomentumSAM
from tests.optim.helpers import Problem, save_and_load, small_net

SGD = torch.optim.SGD


def test_options_of_a_copy_reach_the_copy_of_the_base():
    problem = Problem()
    optimizer = SAM(problem.net.parameters(), SGD, lr=0.1, rho=0.1, interval=3)
    problem.train(optimizer, 4)  # in the middle of the interval
    for make_copy in (copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))):
        other, new = make_copy((problem, optimizer))
        other.train(new, 5)
        assert other.calls == problem.calls + 6
        before = other.snapshot()
        new.param_groups[0].update(lr=0.0)
        other.train(new, 1)
        assert torch.equal(before["0.weight"], other.net[0].weight)
        assert new.base_optimizer.state is new.state
    assert optimizer.n_steps == 4


def test_a_state_that_the_bases_constructor_fills_is_kept():
    params = list(small_net().parameters())
    optimizer = SAM(params, torch.optim.Adagrad, initial_accumulator_value=0.5)
    assert list(optimizer.state) == params
    assert all((state["sum"] == 0.5).all() for state in optimizer.state.values())


def test_a_state_dict_holds_tensors_and_builtins_only():
    options = {"lr": np.float32(0.01), "betas": (np.float64(0.9), 0.99)}
    problem = Problem()
    own = {"rho": np.float64(0.1), "adaptive": np.True_, "interval": np.int64(2)}
    optimizer = SAM(problem.net.parameters(), **own, **options)
    problem.train(optimizer, 2)
    loaded = save_and_load(optimizer.state_dict())
    assert loaded.keys() == {"state", "param_groups"}
    (group,) = loaded["param_groups"]
    assert [type(group[name]) for name in own] == [float, bool, int]
    assert (group["betas"], group["n_steps"]) == ((0.9, 0.99), 2)


def test_loads_the_state_of_the_base_alone():
    problem = Problem()
    plain = torch.optim.AdamW(problem.net.parameters(), lr=0.5)
    problem.train(plain, 2)
    optimizer = SAM(problem.net.parameters(), rho=0.3)
    optimizer.load_state_dict(plain.state_dict())
    group = optimizer.param_groups[0]
    assert (group["lr"], group["rho"]) == (0.5, 0.3)
    assert optimizer.state_dict()["state"][0]["step"] == 2
    problem.train(optimizer, 1)
    plain.load_state_dict(optimizer.state_dict())  # and vice versa


def test_refuses_the_state_of_another_model():
    optimizer = SAM(small_net().parameters())
    two_groups = SAM([{"params": [p]} for p in small_net()[0].parameters()])
    with pytest.raises(ValueError, match="different number of parameter groups"):
        optimizer.load_state_dict(two_groups.state_dict())
    shorter = SAM(small_net()[0].parameters())
    with pytest.raises(ValueError, match="doesn't match the size"):
        optimizer.load_state_dict(shorter.state_dict())


@pytest.mark.parametrize("cls", [SAM, FriendlySAM])
def test_a_group_that_is_added_takes_defaults_of_both(cls):
    problem = Problem()
    first, last = problem.net[0], problem.net[3]
    optimizer = cls(first.parameters(), SGD, lr=0.1, momentum=0.9, rho=0.3)
    problem.train(optimizer, 2)
    optimizer.add_param_group({"params": last.parameters(), "lr": 0.7})
    added = optimizer.param_groups[1]
    assert (added["rho"], added["momentum"], added["lr"]) == (0.3, 0.9, 0.7)
    before = problem.snapshot()
    problem.train(optimizer, 1)
    assert not torch.equal(before["3.weight"], last.weight)
    assert optimizer.n_steps == 3
    with pytest.raises(ValueError, match="rho must be a finite number >= 0, got -1"):
        optimizer.add_param_group({"params": problem.net[1].parameters(), "rho": -1})
    with pytest.raises(TypeError, match="param_group must be a dict"):
        optimizer.add_param_group([torch.nn.Parameter(torch.ones(1))])


def test_names_of_parameters_are_kept():
    net = small_net()
    optimizer = SAM(net.named_parameters())
    assert optimizer.param_groups[0]["param_names"][0] == "0.weight"
    Problem(net).train(optimizer, 2)


# Options of the base optimizer with the name of one of SAM's


@pytest.mark.parametrize(
    ("cls", "base", "name"),
    [(SAM, torch.optim.Adadelta, "rho"), (GSAM, torch.optim.RMSprop, "alpha")],
)
def test_both_have_an_option_of_the_same_name(cls, base, name):
    theirs = f"base_optimizer__{name}"
    params = [torch.nn.Parameter(torch.ones(1)) for _ in range(3)]

    def make():
        groups = [
            {"params": params[:1]},
            {"params": params[1:2], name: 0.3, theirs: 0.7},
        ]
        optimizer = cls(groups, base, **{name: 0.2, theirs: 0.6})
        optimizer.add_param_group({"params": params[2:], name: 0.1, theirs: 0.8})
        return optimizer

    def saved(optimizer):
        """Return the options of SAM and of the base, as in a checkpoint."""
        groups = save_and_load(optimizer.state_dict())["param_groups"]
        assert [g[name] for g in optimizer.base_optimizer.param_groups] == [
            g[name] for g in groups
        ]
        return [(group[f"sam__{name}"], group[name]) for group in groups]

    optimizer = make()
    assert saved(optimizer) == [(0.2, 0.6), (0.3, 0.7), (0.1, 0.8)]
    changed = optimizer.state_dict()
    changed["param_groups"][0] |= {f"sam__{name}": 0.4, name: 0.5}
    optimizer.load_state_dict(changed)
    assert saved(optimizer) == [(0.4, 0.5), (0.3, 0.7), (0.1, 0.8)]
    alone = base(params, **{name: 0.9})
    optimizer.load_state_dict({**changed, "param_groups": [
        {**alone.state_dict()["param_groups"][0], "params": [i]} for i in range(3)
    ]})  # fmt: skip
    assert saved(optimizer) == [(0.4, 0.9), (0.3, 0.9), (0.1, 0.9)]


def test_a_name_without_the_prefix_is_sams_in_the_constructor():
    w = torch.nn.Parameter(torch.ones(1))
    optimizer = SAM([w], torch.optim.Adadelta, rho=0.25)
    theirs = optimizer.base_optimizer.param_groups[0]
    assert theirs["rho"] == 0.9  # Adadelta's default
    for rho in (0.25, 0.5):
        w.grad = torch.ones(1)
        optimizer.first_step()
        assert w.item() == 1 + rho
        optimizer.restore()
        optimizer.param_groups[0].update(sam__rho=0.5, rho=0.75)
    assert theirs["rho"] == 0.75


# Schedulers


OPTIONS = {
    "CosineAnnealingLR": {"T_max": 10},
    "CosineAnnealingWarmRestarts": {"T_0": 3},
    "CyclicLR": {"base_lr": 0.01, "max_lr": 0.1, "step_size_up": 2},
    "ExponentialLR": {"gamma": 0.9},
    "LambdaLR": {"lr_lambda": lambda epoch: 0.9**epoch},
    "MultiStepLR": {"milestones": [1, 3]},
    "MultiplicativeLR": {"lr_lambda": lambda epoch: 0.9},
    "OneCycleLR": {"max_lr": 0.1, "total_steps": 10},
    "ReduceLROnPlateau": {"patience": 0},
    "StepLR": {"step_size": 2},
}


def make_scheduler(name, optimizer):
    if name in ("ChainedScheduler", "SequentialLR"):
        constant = lr_scheduler.ConstantLR(optimizer)
        parts = [constant, lr_scheduler.ExponentialLR(optimizer, 0.9)]
        if name == "ChainedScheduler":
            return lr_scheduler.ChainedScheduler(parts, optimizer=optimizer)
        return lr_scheduler.SequentialLR(optimizer, parts, milestones=[2])
    return getattr(lr_scheduler, name)(optimizer, **OPTIONS.get(name, {}))


# Older versions of torch warn of this in SequentialLR.
@pytest.mark.filterwarnings("ignore:The epoch parameter in .scheduler.step:UserWarning")
@pytest.mark.parametrize("name", sorted({*lr_scheduler.__all__} - {"LRScheduler"}))
def test_schedulers_do_to_sam_what_they_do_to_its_base(name):
    rates = []
    for make in (SGD, functools.partial(SAM, base_optimizer=SGD)):
        problem, found = Problem(), []
        params = problem.net.parameters()
        optimizer = make(params, lr=0.05, momentum=0.9, nesterov=True)
        scheduler = make_scheduler(name, optimizer)
        for _ in range(6):
            problem.train(optimizer, 1)
            scheduler.step(*([1.0] if name == "ReduceLROnPlateau" else []))
            group = optimizer.param_groups[0]
            found.append((group["lr"], group["momentum"]))
        rates.append(found)
    assert rates[0] == rates[1]
    assert len(set(rates[0])) > 1


# Hooks of torch


@pytest.mark.parametrize("form", [Problem.train, Problem.train_in_two_steps])
@pytest.mark.parametrize("cls", [SAM, MomentumSAM])
def test_hooks_run_once_per_step(cls, form):
    problem, seen = Problem(), []
    optimizer = cls(problem.net.parameters())
    base = optimizer.base_optimizer
    registers = {
        "before, global": register_optimizer_step_pre_hook,
        "before": optimizer.register_step_pre_hook,
        "before, base": base.register_step_pre_hook,
        "after, base": base.register_step_post_hook,
        "after": optimizer.register_step_post_hook,
        "after, global": register_optimizer_step_post_hook,
    }
    handles = [
        register(lambda *args, name=name: seen.append(name))
        for name, register in registers.items()
    ]
    try:
        form(problem, optimizer, 1)
    finally:
        for handle in handles:
            handle.remove()
    names = list(registers)
    both = names[:1], names[-1:]  # global hooks see each of the two optimizers
    inner = [*both[0], *names[2:4], *both[1]]
    assert seen == [*names[:2], *inner, *names[4:]]


def test_hooks_of_loading_and_saving_run():
    problem, seen = Problem(), []
    optimizer = SAM(problem.net.parameters())
    problem.train(optimizer, 3)
    wrapped = {"optimizer": optimizer.state_dict()}
    new = SAM(problem.net.parameters())
    new.register_load_state_dict_pre_hook(lambda opt, state: state["optimizer"])
    new.register_load_state_dict_post_hook(lambda opt: seen.append(opt.n_steps))
    new.register_state_dict_pre_hook(lambda opt: seen.append("saving"))
    new.register_state_dict_post_hook(lambda opt, state: {"optimizer": state})
    new.load_state_dict(wrapped)
    assert (seen, new.n_steps) == ([3], 3)
    assert new.state_dict()["optimizer"]["param_groups"][0]["n_steps"] == 3
    assert seen == [3, "saving"]
