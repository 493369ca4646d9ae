"""The promises of a SAM step, in order. 4 and 6 have separate files."""

import functools
import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.modules import module as torch_module

from braindecode_sam import SAM
from tests.optim.helpers import (
    BASES,
    Problem,
    assert_same,
    pretend_accelerator,
    small_net,
)

SGD = torch.optim.SGD


def quadratic(w0, scale):
    """The loss 0.5 * sum(scale * w^2), whose gradient is scale * w."""
    w = torch.nn.Parameter(torch.tensor(w0, dtype=torch.float64))

    def make_closure(optimizer):
        def closure():
            optimizer.zero_grad()
            loss = 0.5 * (torch.tensor(scale, dtype=torch.float64) * w**2).sum()
            loss.backward()
            return loss

        return closure

    return w, make_closure


def numpy_sam(w, scale, n_steps, *, rho, adaptive, lr, momentum, weight_decay, eta):
    w, scale, velocity = np.array(w), np.array(scale), None
    for _ in range(n_steps):
        g = scale * w
        t = np.abs(w) + eta if adaptive else np.ones_like(w)
        epsilon = rho * t**2 * g / np.linalg.norm(t * g)
        step = scale * (w + epsilon) + weight_decay * w
        velocity = step if velocity is None else momentum * velocity + step
        w = w - lr * velocity
    return w


# 1. The clean loss


def test_returns_the_clean_loss_and_keeps_both():
    problem = Problem(small_net(dropout=0))
    optimizer = SAM(problem.net.parameters(), SGD, lr=0.1, rho=0.5)
    clean = problem.loss().item()
    returned = optimizer.step(problem.closure(optimizer))
    assert returned.item() == clean == optimizer.last_loss.item()
    assert optimizer.last_perturbed_loss > optimizer.last_loss
    assert returned.requires_grad
    assert not optimizer.last_loss.requires_grad


def test_takes_a_closure_that_returns_a_number():
    problem = Problem()
    optimizer = SAM(problem.net.parameters())
    closure = problem.closure(optimizer)
    assert isinstance(optimizer.step(lambda: closure().item()), float)


# 2. Epsilon


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("weight_decay", [0.0, 0.3])  # 10: the base optimizer's alone
def test_equals_a_numpy_reference(adaptive, weight_decay):
    w0, scale = [1.0, -2.0, 0.5, 3.0], [1.0, 0.2, 5.0, 0.01]
    options = {"rho": 0.1, "adaptive": adaptive, "eta": 0.02, "lr": 0.05}
    options |= {"momentum": 0.9, "weight_decay": weight_decay}
    w, make_closure = quadratic(w0, scale)
    optimizer = SAM([("weight", w)], SGD, **options)
    for _ in range(10):
        optimizer.step(make_closure(optimizer))
    expected = numpy_sam(w0, scale, 10, **options)
    np.testing.assert_allclose(w.detach(), expected, rtol=1e-12)


def test_norm_is_over_all_groups_and_each_has_its_rho():
    a, b, c = (torch.nn.Parameter(torch.ones(2, 1)) for _ in range(3))
    groups = [
        {"params": [a], "rho": 0.1},
        {"params": [b], "rho": 0.0},
        {"params": [c], "rho": 0.2, "adaptive": True, "eta": 1.0},
    ]
    optimizer = SAM(groups, SGD, lr=0.0)
    for p, value in zip((a, b, c), (3.0, 4.0, 6.0), strict=True):
        p.grad = torch.full((2, 1), value)
    optimizer.first_step()
    norm = math.sqrt(2 * (3**2 + 4**2 + (2 * 6) ** 2))  # T = 1 + eta = 2
    assert a.detach() == pytest.approx(1 + 0.1 * 3 / norm)
    assert torch.equal(b, torch.ones(2, 1))
    assert c.detach() == pytest.approx(1 + 0.2 * 4 * 6 / norm)
    assert optimizer.last_grad_norm == pytest.approx(norm)


@pytest.mark.parametrize("named", [True, False])
def test_adaptive_radius_is_not_relative_to_biases(named):
    net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    params = dict(net.named_parameters())
    optimizer = SAM(
        params.items() if named else params.values(),
        SGD, lr=0.0, rho=1.0, adaptive=True, eta=0.5,
    )  # fmt: skip
    for p in params.values():
        p.data.fill_(2.0)
        p.grad = torch.ones_like(p)
    optimizer.first_step()
    # T is 2.5 or 1; without names the scales of the normalization count as biases.
    t = {"0.weight": 2.5, "0.bias": 1.0, "1.weight": 2.5 if named else 1.0, "1.bias": 1}
    norm = math.sqrt(sum(t[name] ** 2 * p.numel() for name, p in params.items()))
    for name, p in params.items():
        assert p.detach() == pytest.approx(2 + t[name] ** 2 / norm), name
    optimizer.restore()


def test_perturb_only_leaves_others_out_of_the_norm():
    a, b = (torch.nn.Parameter(torch.zeros(1)) for _ in range(2))
    optimizer = SAM([a, b], SGD, lr=0.0, rho=0.5)
    a.grad, b.grad = torch.tensor([3.0]), torch.tensor([4.0])
    optimizer.perturb_only([b])
    optimizer.first_step()
    assert (a.item(), b.item()) == (0.0, 0.5)
    optimizer.restore()
    optimizer.perturb_only(None)
    optimizer.first_step()
    assert (a.item(), b.item()) == pytest.approx((0.3, 0.4))


def test_perturb_only_refuses_parameters_of_others():
    optimizer = SAM(small_net().parameters())
    with pytest.raises(
        ValueError, match="holds 1 tensors, none of which is a parameter"
    ):
        optimizer.perturb_only([torch.nn.Parameter(torch.ones(1))])
    assert optimizer.param_groups[0]["perturbed"] is None


@pytest.mark.parametrize(
    ("options", "calls"),
    [({"rho": 0.0}, 10), ({}, 20), ({"interval": 4}, 13), ({"interval": 100}, 11)],
)
def test_passes(options, calls):
    problem = Problem()
    optimizer = SAM(problem.net.parameters(), **options)
    problem.train(optimizer, 10)
    assert problem.calls == calls


def test_a_step_without_ascent_records_none():
    problem = Problem()
    optimizer = SAM(problem.net.parameters(), interval=2)
    problem.train(optimizer, 1)
    assert optimizer.last_perturbed_loss is not None
    problem.train(optimizer, 1)
    assert optimizer.last_perturbed_loss is None
    assert optimizer.last_grad_norm is None


# 3. Weights are restored


def test_weights_are_restored_bit_for_bit_from_any_distance():
    problem = Problem()
    optimizer = SAM(problem.net.parameters(), SGD, lr=0.0, rho=1e3)
    weights = {n: p.detach().clone() for n, p in problem.net.named_parameters()}
    pointers = [p.data_ptr() for p in problem.net.parameters()]
    problem.train(optimizer, 3)
    assert_same(weights, dict(problem.net.named_parameters()))
    assert pointers == [p.data_ptr() for p in problem.net.parameters()]


# 5. Odd gradients


@given(
    exponent=st.floats(-320, 300),
    direction=st.lists(st.floats(-1, 1), min_size=3, max_size=3),
    dtype=st.sampled_from(
        [torch.float16, torch.bfloat16, torch.float32, torch.float64]
    ),
    adaptive=st.booleans(),
)
def test_no_gradient_makes_a_weight_that_is_not_finite(
    exponent, direction, dtype, adaptive
):
    w = torch.nn.Parameter(torch.tensor([1.0, 0.0, -2.0], dtype=dtype))
    w.grad = (torch.tensor(direction, dtype=torch.float64) * 10**exponent).to(dtype)
    optimizer = SAM([w], SGD, lr=0.0, rho=0.5, adaptive=adaptive)
    optimizer.first_step()
    assert w.isfinite().all()
    moved = (w.detach().double() - torch.tensor([1.0, 0.0, -2.0])).norm()
    assert moved <= (2.2 if adaptive else 1) * 0.5 * 1.02  # T is at most 2 + eta
    optimizer.restore()
    assert w.detach().tolist() == [1.0, 0.0, -2.0]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("on_accelerator", [False, True])
def test_a_gradient_that_is_not_finite_is_left_to_the_base(
    bad, on_accelerator, monkeypatch
):
    if on_accelerator:
        pretend_accelerator(monkeypatch)

    def run(make):
        problem = Problem(small_net(dropout=0))
        optimizer = make(problem.net.parameters())
        closure = problem.closure(optimizer)

        def spoiled():
            loss = closure()
            problem.net[0].weight.grad[0, 0] = bad
            return loss

        optimizer.step(spoiled)
        return problem.snapshot()

    torch.manual_seed(0)
    sam = run(lambda params: SAM(params, SGD, lr=0.1, rho=0.5))
    torch.manual_seed(0)
    base = run(lambda params: SGD(params, lr=0.1))
    for name, value in base.items():
        torch.testing.assert_close(sam[name], value, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("adaptive", [False, True])
def test_the_code_path_for_accelerators_gives_the_same_weights(adaptive, monkeypatch):
    def run():
        torch.manual_seed(0)
        problem = Problem()
        params = problem.net.parameters()
        optimizer = SAM(params, SGD, lr=0.1, adaptive=adaptive, rho=0.5)
        problem.train(optimizer, 3)
        return problem.snapshot()

    cpu = run()
    pretend_accelerator(monkeypatch)
    accelerator = run()
    for name, value in cpu.items():
        torch.testing.assert_close(value, accelerator[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("on_accelerator", [False, True])
def test_ascent_from_a_gradient_that_is_not_finite_is_skipped(
    on_accelerator, monkeypatch
):
    problem = Problem()
    optimizer = SAM(problem.net.parameters(), rho=0.5)
    if on_accelerator:
        pretend_accelerator(monkeypatch)
    weights = {n: p.detach().clone() for n, p in problem.net.named_parameters()}
    problem.closure(optimizer)()
    problem.net[0].weight.grad[0, 0] = math.inf
    optimizer.first_step()
    assert_same(weights, dict(problem.net.named_parameters()))


def test_gradients_that_are_missing_in_one_pass_or_both():
    a, b, c = (torch.nn.Parameter(torch.ones(1)) for _ in range(3))
    optimizer = SAM([a, b, c], SGD, lr=1.0, rho=0.5)
    calls = []

    def closure():
        optimizer.zero_grad()
        calls.append((a.item(), b.item(), c.item()))
        loss = (a * (b if len(calls) == 2 else 1)).sum()  # b only in the second pass
        loss.backward()
        return loss

    optimizer.step(closure)
    assert calls == [(1.0, 1.0, 1.0), (1.5, 1.0, 1.0)]
    assert (a.item(), b.item(), c.item()) == (0.0, -0.5, 1.0)


def test_no_gradient_at_all():
    w = torch.nn.Parameter(torch.ones(2))
    optimizer = SAM([w], rho=0.5)
    assert optimizer.step(lambda: torch.tensor(3.0)) == 3.0
    assert torch.equal(w, torch.ones(2))


@pytest.mark.parametrize("adaptive", [False, True])
def test_sparse_gradients(adaptive):
    def run(sparse):
        torch.manual_seed(0)
        embedding = torch.nn.Embedding(7, 3, sparse=sparse)
        optimizer = SAM(embedding.parameters(), SGD, lr=0.1, adaptive=adaptive)

        def closure():
            optimizer.zero_grad()
            loss = embedding(torch.tensor([1, 1, 4])).pow(2).sum()
            loss.backward()
            return loss

        for _ in range(3):
            optimizer.step(closure)
        return embedding.weight.detach()

    torch.testing.assert_close(run(sparse=True), run(sparse=False))


def test_complex_weights():
    w = torch.nn.Parameter(torch.tensor([1 + 1j, 2 - 1j]))
    optimizer = SAM([w], SGD, lr=0.0, rho=0.5)
    w.grad = torch.tensor([3 + 0j, 0 + 4j])
    optimizer.first_step()
    expected = torch.tensor([1.3 + 1j, 2 - 0.6j])
    torch.testing.assert_close(w.detach(), expected)


# 7. Arguments


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"rho": -1}, ValueError, "rho must be a finite number >= 0, got -1"),
        ({"rho": math.nan}, ValueError, "rho must be a finite number >= 0, got nan"),
        ({"rho": math.inf}, ValueError, "rho must be a finite number >= 0, got inf"),
        ({"rho": "0.1"}, TypeError, "rho must be a finite number >= 0, got '0.1'"),
        ({"eta": -0.1}, ValueError, "eta must be a finite number >= 0, got -0.1"),
        ({"adaptive": "yes"}, TypeError, "adaptive must be True or False, got 'yes'"),
        ({"interval": 0}, ValueError, "interval must be an integer >= 1, got 0"),
        ({"interval": 1.5}, TypeError, "interval must be an integer >= 1, got 1.5"),
        ({"lr": -1}, ValueError, "Invalid learning rate: -1"),
        (
            {"foo": 1},
            TypeError,
            "neither SAM nor its base optimizer AdamW has an option 'foo'",
        ),
    ],
)
def test_refuses_options(options, error, message):
    with pytest.raises(error, match=re.escape(message)):
        SAM(small_net().parameters(), **options)


@pytest.mark.parametrize("base", ["AdamW", small_net, torch.nn.Linear, None])
def test_refuses_a_base_that_is_not_an_optimizer(base):
    with pytest.raises(TypeError, match="base_optimizer must be a class derived from"):
        SAM(small_net().parameters(), base)


def test_refuses_an_instance_as_base():
    net = small_net()
    base = SGD(net.parameters(), lr=0.1)
    with pytest.raises(TypeError, match=r"the class, not an instance\), got SGD"):
        SAM(net.parameters(), base)


@pytest.mark.parametrize("base", [torch.optim.LBFGS, SAM])
def test_refuses_a_base_that_needs_a_closure(base):
    with pytest.raises(ValueError, match=f"without a closure.*got {base.__name__}"):
        SAM(small_net().parameters(), base)


@pytest.mark.parametrize("params", [[], iter([]), [{"params": []}]])
def test_refuses_no_parameters(params):
    with pytest.raises(ValueError, match="params must hold at least one tensor, got"):
        SAM(params)


def test_refuses_a_single_tensor_as_torch_does():
    with pytest.raises(TypeError, match="an iterable of Tensors or dicts"):
        SAM(torch.nn.Parameter(torch.ones(2)))


def test_refuses_a_step_without_closure():
    with pytest.raises(TypeError, match=r"needs a closure.*first_step"):
        SAM(small_net().parameters()).step()


def test_refuses_a_group_option_when_added_or_set_later():
    net = small_net()
    with pytest.raises(ValueError, match="rho must be a finite number >= 0, got -2"):
        SAM([{"params": net.parameters(), "rho": -2}])
    optimizer = SAM(net.parameters())
    with pytest.raises(ValueError, match="rho must be a finite number >= 0, got nan"):
        optimizer.param_groups[0]["rho"] = math.nan
    with pytest.raises(ValueError, match="interval=3 was set on an existing optimizer"):
        optimizer.param_groups[0]["interval"] = 3
    with pytest.raises(TypeError, match="rho is an option of SAM and cannot be"):
        del optimizer.param_groups[0]["rho"]
    assert optimizer.param_groups[0]["rho"] == 0.05


def test_both_spellings_of_base_options():
    net = small_net()
    group = {"params": net.parameters(), "base_optimizer__lr": 0.5}
    optimizer = SAM([group], base_optimizer__betas=(0.5, 0.6))
    assert optimizer.param_groups[0]["betas"] == (0.5, 0.6)
    assert optimizer.param_groups[0]["lr"] == 0.5
    with pytest.raises(
        TypeError, match="lr was given twice, also as base_optimizer__lr"
    ):
        SAM(net.parameters(), lr=0.1, base_optimizer__lr=0.2)


# 8. Two steps

TWO_STEP_LOOP = """
for x, y in loader:
    loss = criterion(model(x), y)
    loss.backward()
    optimizer.first_step(zero_grad=True)
    criterion(model(x), y).backward()
    optimizer.second_step(zero_grad=True)
"""


@pytest.mark.parametrize("name", BASES)
def test_the_explicit_loop_runs_as_written_and_equals_step(name):
    base, options = BASES[name]

    def prepare():
        torch.manual_seed(0)
        problem = Problem(small_net(dropout=0))
        return problem, SAM(problem.net.parameters(), base, lr=0.01, **options)

    problem, optimizer = prepare()
    explicit = {
        "loader": [(problem.x, problem.y)] * 5,
        "criterion": torch.nn.MSELoss(),
        "model": problem.net,
        "optimizer": optimizer,
    }
    exec(TWO_STEP_LOOP, explicit)  # as in a user's script
    by_closure, optimizer = prepare()
    by_closure.train(optimizer, 5)
    assert_same(problem.snapshot(), by_closure.snapshot())


def test_two_steps_out_of_order():
    problem = Problem()
    optimizer = SAM(problem.net.parameters())
    with pytest.raises(
        RuntimeError, match="second_step was called without a first_step"
    ):
        optimizer.second_step()
    problem.closure(optimizer)()
    optimizer.first_step()
    with pytest.raises(RuntimeError, match="first_step was called between"):
        optimizer.first_step()
    with pytest.raises(RuntimeError, match=r"step was called between.*restore\(\)"):
        problem.train(optimizer, 1)
    optimizer.second_step()
    problem.train(optimizer, 1)


def test_restore_after_a_failed_second_pass():
    problem = Problem()
    optimizer = SAM(problem.net.parameters(), rho=3.0)
    problem.closure(optimizer)()
    before = problem.snapshot()
    optimizer.first_step()
    problem.loss()
    optimizer.restore()
    assert_same(problem.snapshot(), before)
    optimizer.restore()  # nothing to do
    problem.train(optimizer, 1)


def test_first_step_that_raises_is_rolled_back(monkeypatch):
    problem = Problem()
    optimizer = SAM(problem.net.parameters())
    problem.closure(optimizer)()
    before = problem.snapshot()

    def fail(*args):
        raise MemoryError("ascent")

    monkeypatch.setattr(optimizer, "_ascend", fail)
    with pytest.raises(MemoryError, match="ascent"):
        optimizer.first_step()
    monkeypatch.undo()
    assert_same(problem.snapshot(), before)
    assert not torch_module._global_forward_pre_hooks
    problem.train(optimizer, 1)


def test_two_steps_and_a_scheduler_do_not_warn():
    problem = Problem()
    optimizer = SAM(problem.net.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    for _ in range(3):
        problem.closure(optimizer)()
        optimizer.first_step(zero_grad=True)
        problem.loss().backward()
        optimizer.second_step(zero_grad=True)
        scheduler.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1 / 8)


# 9. Speed: memory is reused, not allocated in every step


@pytest.mark.parametrize("adaptive", [False, True])
def test_buffers_are_kept_and_follow_the_parameters(adaptive):
    problem = Problem()
    optimizer = SAM(problem.net.parameters(), SGD, lr=0.1, adaptive=adaptive)
    problem.train(optimizer, 1)
    (group,) = optimizer._flat.groups
    pointer = group._saved[0].data_ptr()
    problem.train(optimizer, 3)
    assert optimizer._flat.groups == [group]
    assert group._saved[0].data_ptr() == pointer
    problem.net.double()
    problem.x, problem.y = problem.x.double(), problem.y.double()
    problem.train(optimizer, 1)
    assert optimizer._flat.groups[0]._saved[0].dtype == torch.float64


def test_a_model_of_two_dtypes():
    net = small_net(dropout=0)
    net[3].double()
    optimizer = SAM(net.parameters(), SGD, lr=0.0, rho=0.5)
    for p in net.parameters():
        p.grad = torch.ones_like(p)
    before = [p.detach().clone() for p in net.parameters()]
    optimizer.first_step()
    n = sum(p.numel() for p in before)
    for p, old in zip(net.parameters(), before, strict=True):
        torch.testing.assert_close(p.detach(), old + 0.5 / math.sqrt(n))
    assert len(optimizer._flat.groups) == 2


@pytest.mark.parametrize(
    ("option", "hint"), [("roh", "'rho'"), ("weigt_decay", "'weight_decay'")]
)
def test_an_option_that_neither_has_is_refused(option, hint):
    with pytest.raises(TypeError, match=f"neither SAM nor.*AdamW.*'{option}'.*{hint}"):
        SAM(small_net().parameters(), **{option: 0.1})
    with pytest.raises(TypeError, match=r"'base_optimizer__unheard_of'$"):
        SAM(small_net().parameters(), base_optimizer__unheard_of=1)


def test_a_misspelt_option_in_a_group_is_warned_of():
    params = list(small_net().parameters())
    with pytest.warns(UserWarning, match="'roh', which is not an option; did you mean"):
        optimizer = SAM([{"params": params[:1], "roh": 0.1}])
    with pytest.warns(UserWarning, match="'weight_dcay'.*'weight_decay'"):
        optimizer.add_param_group({"params": params[1:2], "weight_dcay": 0.1})
    optimizer.add_param_group({"params": params[2:], "name": "rest", "max_lr": 1.0})


def test_a_misspelt_option_of_a_partial_base_is_left_to_torch():
    with pytest.raises(TypeError, match="momentun"):
        SAM(small_net().parameters(), functools.partial(torch.optim.SGD, momentun=1))
