"""torch's inputs for tests of optimizers, with a SAM around each optimizer."""

import copy
import re

import pytest
import torch
from torch.optim import LBFGS
from torch.testing._internal import common_optimizers as common

from braindecode_sam.optim import GSAM, SAM
from tests.optim.helpers import assert_same
from tests.optim.test_sam_state import save_and_load

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
INFOS = [info for info in common.optim_db if info.optim_cls is not LBFGS]
CASES = [
    pytest.param(info, case, id=f"{info.optim_cls.__name__}, {case.desc}")
    for info in INFOS
    for case in common._get_optim_inputs_including_global_cliquey_kwargs(
        CPU, torch.float32, info
    )
]
# Backward of a second step would go through the first one.
TRAINED = [case for case in CASES if not case.values[1].kwargs.get("differentiable")]
ERRORS = [
    pytest.param(info, case, id=f"{info.optim_cls.__name__}, {i}")
    for info in INFOS
    for i, case in enumerate(info.optim_error_inputs_func(CPU, torch.float32))
    if case.error_on == common.OptimizerErrorEnum.CONSTRUCTION_ERROR
]


def shapes(info):
    """Muon accepts only matrices."""
    return ((4, 3), (2, 4)) if info.optim_cls.__name__ == "Muon" else ((4, 3), (4,))


def make_params(info, device="cpu", dtype=torch.float32):
    torch.manual_seed(0)
    return [
        torch.nn.Parameter(torch.randn(shape, dtype=dtype).to(device))
        for shape in shapes(info)
    ]


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


def as_differentiable_needs_them(params):
    """Leaves cannot be changed if the step itself is differentiated."""
    clones = [p.clone() for p in params]
    grads = [p.detach().cos() for p in params]
    return clones, grads


def values(params, optimizer):
    flat = {f"weight {i}": p.detach() for i, p in enumerate(params)}
    for i, p in enumerate(params):
        for name, value in optimizer.state[p].items():
            if isinstance(value, torch.Tensor):
                flat[f"{i}, {name}"] = value.detach().to_dense()
    return flat


@pytest.mark.parametrize(("info", "case"), CASES)
@pytest.mark.parametrize("sam", [SAM, GSAM])
def test_without_a_radius_it_is_the_base_alone(sam, info, case):
    found = []
    for cls, options in ((None, {}), (sam, {"rho": 0.0})):
        params = make_params(info)
        if case.kwargs.get("differentiable"):
            params, grads = as_differentiable_needs_them(params)
            optimizer = build(cls, info, case, params, **options)
            for p, grad in zip(params, grads, strict=True):
                p.grad = grad
            closure = lambda: torch.zeros(())  # noqa: E731
            optimizer.step(closure)
            assert params[0].grad_fn is not None
        else:
            optimizer = build(cls, info, case, params, **options)
            for _ in range(5):
                optimizer.step(make_closure(optimizer, params, info))
        found.append(values(params, optimizer))
    assert_same(*found)


@pytest.mark.parametrize(("info", "case"), TRAINED)
@pytest.mark.parametrize("sam", [SAM, GSAM])
def test_with_a_radius_it_trains_and_resumes(sam, info, case):
    params = make_params(info)
    optimizer = build(sam, info, case, params, rho=0.01)
    losses = [
        float(optimizer.step(make_closure(optimizer, params, info)).detach())
        for _ in range(8)
    ]
    rise = optimizer.last_perturbed_loss - optimizer.last_loss
    assert rise < 0 if case.kwargs.get("maximize") else rise > 0
    assert losses[-1] > losses[0] if case.kwargs.get("maximize") else True
    others = [torch.nn.Parameter(p.detach().clone()) for p in params]
    resumed = build(sam, info, case, others, rho=0.01)
    resumed.load_state_dict(save_and_load(optimizer.state_dict()))
    for one, its in ((optimizer, params), (resumed, others)):
        for _ in range(3):
            one.step(make_closure(one, its, info))
    assert_same(values(params, optimizer), values(others, resumed))


@pytest.mark.parametrize(("info", "case"), ERRORS)
def test_what_the_base_refuses_is_refused_with_its_message(info, case):
    inputs = case.optimizer_error_input
    params = make_params(info) if inputs.params is None else inputs.params
    regex = case.error_regex
    if params == []:  # our message gives a likely cause
        regex = re.escape("params must hold at least one tensor")
    with pytest.raises(case.error_type, match=regex):
        build(SAM, info, inputs, params)


@pytest.mark.parametrize("info", INFOS, ids=lambda info: info.optim_cls.__name__)
@pytest.mark.parametrize("rho", [0.0, 0.1])
def test_meta_parameters(info, rho):
    params = make_params(info, "meta")
    case = common.OptimizerInput(None, {}, "")

    def closure():
        for p in params:
            p.grad = torch.ones_like(p)
        return torch.ones((), device="meta")

    try:
        build(None, info, case, params).step(closure)
    except RuntimeError as error:
        pytest.skip(f"the base alone does not take them: {error}")
    optimizer = build(SAM, info, case, params, rho=rho)
    for _ in range(2):
        optimizer.step(closure)
    assert all(p.is_meta for p in params)
    assert optimizer.n_steps == 2


def test_gradients_flow_through_a_differentiable_base():
    weight = torch.randn(3, dtype=torch.float64, requires_grad=True)
    grad = torch.randn(3, dtype=torch.float64, requires_grad=True)

    def step(optimizer_class, weight, grad):
        params = [weight.clone()]
        params[0].grad = grad
        options = {"rho": 0.0} if optimizer_class is SAM else {}
        base = {"base_optimizer": torch.optim.SGD} if optimizer_class is SAM else {}
        optimizer = optimizer_class(
            params, **base, lr=0.1, differentiable=True, **options
        )
        optimizer.step(lambda: None)
        return params[0]

    ours, alone = (step(cls, weight, grad) for cls in (SAM, torch.optim.SGD))
    for first, second in zip(
        torch.autograd.grad(ours.square().sum(), (weight, grad)),
        torch.autograd.grad(alone.square().sum(), (weight, grad)),
        strict=True,
    ):
        assert torch.equal(first, second)
