"""torch's inputs for tests of optimizers, with a SAM around each optimizer."""

import copy
import re

import pytest
import torch
from torch.optim import LBFGS
from torch.testing._internal import common_optimizers as common

from braindecode_sam.optim import SAM
from tests.optim.helpers import assert_same, save_and_load

INFOS = [info for info in common.optim_db if info.optim_cls is not LBFGS]
NAMES = [info.optim_cls.__name__ for info in INFOS]


def inputs(info):
    make = common._get_optim_inputs_including_global_cliquey_kwargs
    return make(torch.device("cpu"), torch.float32, info)


def cases(sample):
    """All of torch's inputs; those that are not the first of their kind are `full`."""
    seen, found = set(), []
    for info, name in zip(INFOS, NAMES, strict=True):
        for case in inputs(info):
            kind = name, sample(case)
            is_new = kind not in seen
            seen.add(kind)
            marks = () if is_new else pytest.mark.full
            case_id = f"{name}, {case.desc}"
            found.append(pytest.param(info, case, marks=marks, id=case_id))
    return found


EACH_IMPLEMENTATION = cases(
    lambda case: (case.kwargs.get("fused"), case.kwargs.get("differentiable"))
)
EACH_OPTIMIZER = [
    case
    for case in cases(lambda case: None)
    # Backward of a second step would go through the first one.
    if not case.values[1].kwargs.get("differentiable")
]


def make_params(info):
    torch.manual_seed(0)
    is_muon = info.optim_cls.__name__ == "Muon"  # accepts only matrices
    shapes = ((4, 3), (2, 4)) if is_muon else ((4, 3), (4,))
    return [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]


def make_closure(optimizer, params, info):
    """A loss whose gradients change from step to step."""

    def closure():
        optimizer.zero_grad()
        loss = sum((i + 1) * p.sin().sum() for i, p in enumerate(params))
        if params[0].requires_grad and params[0].is_leaf:
            loss.backward()
        if info.only_supports_sparse_grads:
            for p in params:
                p.grad = p.grad.to_sparse()
        return loss

    return closure


def build(sam, info, case, params, **options):
    kwargs = copy.deepcopy(case.kwargs)
    if sam is None:
        return info.optim_cls(params, **kwargs)
    base_kwargs = {f"base_optimizer__{name}": value for name, value in kwargs.items()}
    return sam(params, info.optim_cls, **options, **base_kwargs)


def values(params, optimizer):
    flat = {f"weight {i}": p.detach() for i, p in enumerate(params)}
    for i, p in enumerate(params):
        for name, value in optimizer.state[p].items():
            if isinstance(value, torch.Tensor):
                flat[f"{i}, {name}"] = value.detach().to_dense()
    return flat


@pytest.mark.parametrize(("info", "case"), EACH_IMPLEMENTATION)
def test_without_a_radius_it_is_the_base_alone(info, case):
    found = []
    for cls, options in ((None, {}), (SAM, {"rho": 0.0})):
        params = make_params(info)
        if case.kwargs.get("differentiable"):
            # Leaves cannot be changed if the step itself is differentiated.
            grads = [p.detach().cos() for p in params]
            params = [p.clone() for p in params]
            optimizer = build(cls, info, case, params, **options)
            for p, grad in zip(params, grads, strict=True):
                p.grad = grad
            optimizer.step(lambda: torch.zeros(()))
            assert params[0].grad_fn is not None
        else:
            optimizer = build(cls, info, case, params, **options)
            for _ in range(5):
                optimizer.step(make_closure(optimizer, params, info))
        found.append(values(params, optimizer))
    assert_same(*found)


@pytest.mark.parametrize(("info", "case"), EACH_OPTIMIZER)
def test_with_a_radius_it_trains_and_resumes(info, case):
    params = make_params(info)
    optimizer = build(SAM, info, case, params, rho=0.01)
    losses = [
        float(optimizer.step(make_closure(optimizer, params, info)).detach())
        for _ in range(8)
    ]
    rise = optimizer.last_perturbed_loss - optimizer.last_loss
    sign = -1 if case.kwargs.get("maximize") else 1
    assert sign * rise > 0
    assert sign * losses[-1] < sign * losses[0]
    others = [torch.nn.Parameter(p.detach().clone()) for p in params]
    resumed = build(SAM, info, case, others, rho=0.01)
    resumed.load_state_dict(save_and_load(optimizer.state_dict()))
    for one, its in ((optimizer, params), (resumed, others)):
        for _ in range(3):
            one.step(make_closure(one, its, info))
    assert_same(values(params, optimizer), values(others, resumed))


def test_what_a_base_refuses_is_refused_with_its_message():
    for info in INFOS:
        for case in info.optim_error_inputs_func(torch.device("cpu"), torch.float32):
            if case.error_on != common.OptimizerErrorEnum.CONSTRUCTION_ERROR:
                continue
            given, message = case.optimizer_error_input, case.error_regex
            params = make_params(info) if given.params is None else given.params
            if params == []:  # our message gives a likely cause
                message = re.escape("params must hold at least one tensor")
            with pytest.raises(case.error_type, match=message):
                build(SAM, info, given, params)
