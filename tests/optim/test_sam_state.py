"""Promise 6: saving, loading, copying, pickling, groups and schedulers."""

import copy
import io
import pickle

import numpy as np
import pytest
import torch
from torch.optim import lr_scheduler

from braindecode_sam import SAM
from tests.optim.helpers import BASES, FAMILY, Problem, assert_same, small_net

# LBFGS needs a closure, SparseAdam sparse gradients, and Muon matrices.
ALL_BASES = sorted(
    {name for name in torch.optim.__all__ if name[0].isupper()}
    - {"LBFGS", "Muon", "Optimizer", "SparseAdam"}
)


def save_and_load(state_dict):
    file = io.BytesIO()
    torch.save(state_dict, file)
    file.seek(0)
    return torch.load(file, weights_only=True)  # as skorch does


def resumed_by_state_dict(problem, optimizer, make):
    net = copy.deepcopy(problem.net)
    new = make(net.parameters())
    new.load_state_dict(save_and_load(optimizer.state_dict()))
    return net, new


def resumed_by_pickle(problem, optimizer, make):
    return pickle.loads(pickle.dumps((problem.net, optimizer)))


def resumed_by_deepcopy(problem, optimizer, make):
    return copy.deepcopy((problem.net, optimizer))


@pytest.mark.parametrize("base", ALL_BASES)
@pytest.mark.parametrize(
    "resume", [resumed_by_state_dict, resumed_by_pickle, resumed_by_deepcopy]
)
def test_resumes_bit_for_bit(base, resume):
    def make(params):
        return SAM(params, getattr(torch.optim, base), rho=0.1, interval=3)

    problem = Problem()
    optimizer = make(problem.net.parameters())
    problem.train(optimizer, 4)  # in the middle of the interval
    other = Problem()
    other.net, new = resume(problem, optimizer, make)
    random_state = torch.get_rng_state()
    losses = problem.train(optimizer, 5)
    torch.set_rng_state(random_state)
    assert other.train(new, 5) == losses
    assert_same(problem.snapshot(), other.snapshot())
    assert other.calls == problem.calls - 4 - 2
    assert new.base_optimizer.state is new.state
    for group, base in zip(
        new.param_groups, new.base_optimizer.param_groups, strict=True
    ):
        assert group.base is base
        assert group["params"] is base["params"]
    assert new.defaults.base is new.base_optimizer.defaults


def test_a_state_that_the_bases_constructor_fills_is_kept():
    params = list(small_net().parameters())
    optimizer = SAM(params, torch.optim.Adagrad, initial_accumulator_value=0.5)
    assert list(optimizer.state) == params
    assert all((state["sum"] == 0.5).all() for state in optimizer.state.values())


@pytest.mark.parametrize("cls", FAMILY)
def test_loads_with_weights_only(cls):
    problem = Problem()
    optimizer = cls(problem.net.parameters())
    problem.train(optimizer, 2)
    loaded = save_and_load(optimizer.state_dict())
    assert loaded.keys() == {"state", "param_groups"}
    assert loaded["param_groups"][0]["n_steps"] == 2


def test_state_dict_holds_tensors_and_builtins_only():
    options = {"lr": np.float32(0.01), "betas": (np.float64(0.9), 0.99)}
    problem = Problem()
    optimizer = SAM(problem.net.parameters(), rho=np.float64(0.1), **options)
    problem.train(optimizer, 2)
    loaded = save_and_load(optimizer.state_dict())
    assert type(loaded["param_groups"][0]["rho"]) is float
    assert loaded["param_groups"][0]["betas"] == (0.9, 0.99)
    assert loaded["param_groups"][0]["n_steps"] == 2


def test_loads_the_state_of_the_base_alone():
    problem = Problem()
    plain = torch.optim.AdamW(problem.net.parameters(), lr=0.5)
    problem.train(plain, 2)
    optimizer = SAM(problem.net.parameters(), rho=0.3)
    optimizer.load_state_dict(plain.state_dict())
    group = optimizer.param_groups[0]
    assert (group["lr"], group["rho"], group["perturbed"]) == (0.5, 0.3, None)
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


@pytest.mark.parametrize("cls", FAMILY)
def test_add_param_group_takes_defaults_of_both(cls):
    problem = Problem()
    first, last = problem.net[0], problem.net[3]
    options = {"lr": 0.1, "momentum": 0.9, "rho": 0.3}
    optimizer = cls(first.parameters(), torch.optim.SGD, **options)
    problem.train(optimizer, 2)
    optimizer.add_param_group({"params": last.parameters(), "lr": 0.7})
    added = optimizer.param_groups[1]
    assert added["rho"] == 0.3
    assert added["momentum"] == 0.9
    assert added["lr"] == 0.7
    before = problem.snapshot()
    problem.train(optimizer, 1)
    assert not torch.equal(before["3.weight"], last.weight)
    with pytest.raises(ValueError, match="rho must be a finite number >= 0, got -1"):
        optimizer.add_param_group({"params": problem.net[1].parameters(), "rho": -1})
    with pytest.raises(TypeError, match="param_group must be a dict"):
        optimizer.add_param_group([torch.nn.Parameter(torch.ones(1))])


def test_named_parameters():
    net = small_net()
    optimizer = SAM(net.named_parameters())
    assert optimizer.param_groups[0]["param_names"][0] == "0.weight"
    Problem(net).train(optimizer, 2)


def _sequential(optimizer):
    parts = [
        lr_scheduler.ConstantLR(optimizer),
        lr_scheduler.ExponentialLR(optimizer, 0.9),
    ]
    return lr_scheduler.SequentialLR(optimizer, parts, milestones=[2])


SCHEDULERS = {
    "ChainedScheduler": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(o), lr_scheduler.ExponentialLR(o, 0.9)], optimizer=o
    ),
    "ConstantLR": lr_scheduler.ConstantLR,
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 10),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(
        o, 3
    ),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.1, step_size_up=2),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, 0.9),
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda epoch: 0.9**epoch),
    "LinearLR": lr_scheduler.LinearLR,
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [1, 3]),
    "MultiplicativeLR": lambda o: lr_scheduler.MultiplicativeLR(o, lambda epoch: 0.9),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=10),
    "PolynomialLR": lr_scheduler.PolynomialLR,
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=0),
    "SequentialLR": _sequential,
    "StepLR": lambda o: lr_scheduler.StepLR(o, 2),
    "SWALR": lambda o: torch.optim.swa_utils.SWALR(o, swa_lr=0.01),
}


def test_every_scheduler_of_torch_is_tested():
    known = {name for name in lr_scheduler.__all__ if name != "LRScheduler"}
    assert known <= set(SCHEDULERS)


# Older versions of torch warn of this in SequentialLR.
@pytest.mark.filterwarnings("ignore:The epoch parameter in .scheduler.step:UserWarning")
@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("base", ["AdamW", "SGD with momentum"])
@pytest.mark.parametrize("sam_class", FAMILY)
def test_schedulers_do_to_sam_what_they_do_to_its_base(name, base, sam_class):
    cls, options = BASES[base]

    def rates(make):
        problem = Problem()
        optimizer = make(problem.net.parameters())
        scheduler = SCHEDULERS[name](optimizer)
        arguments = [1.0] if name == "ReduceLROnPlateau" else []
        found = []
        for _ in range(6):
            problem.train(optimizer, 1)
            scheduler.step(*arguments)
            group = optimizer.param_groups[0]
            found.append((group["lr"], group.get("momentum"), group.get("betas")))
        return found

    sam = rates(lambda params: sam_class(params, cls, lr=0.05, **options))
    assert sam == rates(lambda params: cls(params, lr=0.05, **options))


@pytest.mark.parametrize("cls", FAMILY)
def test_step_hooks_run_once(cls):
    problem, seen = Problem(), []
    optimizer = cls(problem.net.parameters())
    optimizer.register_step_pre_hook(lambda *args: seen.append("pre"))
    optimizer.register_step_post_hook(lambda *args: seen.append("post"))
    problem.train(optimizer, 1)
    assert seen == ["pre", "post"]
