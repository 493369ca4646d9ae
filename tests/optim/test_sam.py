"""The promises of a SAM step, in order.

4, 6, 11 and 13 have separate files: test_buffers, test_sam_state, test_faults and
test_ordinary_use.
"""

import gc
import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.distributed.tensor import distribute_tensor, init_device_mesh

from braindecode_sam import SAM
from braindecode_sam.optim import GSAM, FriendlySAM, MomentumSAM
from tests.optim.helpers import BASES, Problem, assert_same, small_net

SGD = torch.optim.SGD


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


# 2. Epsilon; test_variants.py compares whole steps with NumPy


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
    c = torch.nn.Parameter(torch.zeros(1))
    c.grad = torch.tensor([12.0])
    optimizer.add_param_group({"params": c})
    optimizer.first_step()
    assert (a.item(), b.item(), c.item()) == (0.0, 0.5, 0.0)
    optimizer.restore()
    optimizer.perturb_only(None)
    optimizer.first_step()
    moved = (a.item(), b.item(), c.item())
    assert moved == pytest.approx((0.5 * 3 / 13, 0.5 * 4 / 13, 0.5 * 12 / 13))


def test_perturb_only_refuses_parameters_of_others():
    optimizer = SAM(small_net().parameters())
    with pytest.raises(
        ValueError, match="holds 1 tensors, none of which is a parameter"
    ):
        optimizer.perturb_only([torch.nn.Parameter(torch.ones(1))])


def test_numbers_of_numpy_are_numbers():
    weights = []
    for number in (float, np.float32, np.float16, np.float64):
        problem = Problem(small_net(dropout=0))
        torch.manual_seed(0)
        problem.net.load_state_dict(small_net(dropout=0).state_dict())
        optimizer = SAM(problem.net.parameters(), rho=number(0.125), lr=number(0.25))
        optimizer.param_groups[0]["rho"] = number(0.25)
        problem.train(optimizer, 2)
        weights.append(problem.snapshot())
    for other in weights[1:]:
        assert_same(weights[0], other)


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
    if w.grad.double().norm() > 1e-18:  # or float32 loses the squares
        moved = (w.detach().double() - torch.tensor([1.0, 0.0, -2.0])).norm()
        assert moved <= (2.2 if adaptive else 1) * 0.5 * 1.02  # T is at most 2 + eta
    optimizer.restore()
    assert w.detach().tolist() == [1.0, 0.0, -2.0]


def test_the_norm_of_float16_gradients_may_overflow_float16():
    w = torch.nn.Parameter(torch.ones(2, dtype=torch.float16))
    w.grad = torch.full_like(w, 6e4)
    SAM([w], SGD, lr=0.0, rho=0.5).first_step()
    assert w.tolist() == pytest.approx([1 + 0.5 / math.sqrt(2)] * 2, rel=0.01)


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


def test_a_loss_without_gradients_moves_nothing():
    w = torch.nn.Parameter(torch.ones(2))
    optimizer = SAM([w], rho=0.5)
    assert optimizer.step(lambda: torch.tensor(3.0)) == 3.0
    assert torch.equal(w, torch.ones(2))


@pytest.mark.parametrize("adaptive", [False, True])
def test_sparse_gradients_do_what_dense_ones_do(adaptive):
    weights = []
    for sparse in (False, True):
        torch.manual_seed(0)
        embedding = torch.nn.Embedding(7, 3, sparse=sparse)
        optimizer = SAM(embedding.parameters(), SGD, lr=0.1, adaptive=adaptive)

        def closure(embedding=embedding, optimizer=optimizer):
            optimizer.zero_grad()
            loss = embedding(torch.tensor([1, 1, 4])).pow(2).sum()
            loss.backward()
            return loss

        for _ in range(3):
            optimizer.step(closure)
        weights.append(embedding.weight.detach())
    torch.testing.assert_close(*weights)


def test_complex_weights_move_along_complex_gradients():
    w = torch.nn.Parameter(torch.tensor([1 + 1j, 2 - 1j]))
    w.grad = torch.tensor([3 + 0j, 0 + 4j])
    SAM([w], SGD, lr=0.0, rho=0.5).first_step()
    torch.testing.assert_close(w.detach(), torch.tensor([1.3 + 1j, 2 - 0.6j]))


# 7. Arguments


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"rho": -1}, ValueError, "rho must be a finite number >= 0, got -1"),
        ({"rho": math.nan}, ValueError, "rho must be a finite number >= 0, got nan"),
        ({"rho": "0.1"}, TypeError, "rho must be a finite number >= 0, got '0.1'"),
        ({"eta": -0.1}, ValueError, "eta must be a finite number >= 0, got -0.1"),
        ({"adaptive": "yes"}, TypeError, "adaptive must be True or False, got 'yes'"),
        ({"interval": 0}, ValueError, "interval must be an integer >= 1, got 0"),
        ({"interval": 1.5}, TypeError, "interval must be an integer >= 1, got 1.5"),
        ({"lr": -1}, ValueError, "Invalid learning rate: -1"),
    ],
)
def test_refuses_options(options, error, message):
    with pytest.raises(error, match=re.escape(message)):
        SAM(small_net().parameters(), **options)


@pytest.mark.parametrize(
    ("base", "error", "message"),
    [
        ("AdamW", TypeError, "base_optimizer must be a class derived from"),
        (torch.nn.Linear, TypeError, "base_optimizer must be a class derived from"),
        (SGD(small_net().parameters()), TypeError, r"not an instance\), got SGD"),
        (torch.optim.LBFGS, ValueError, "without a closure.*got LBFGS"),
        (SAM, ValueError, "without a closure.*got SAM"),
    ],
)
def test_refuses_a_base(base, error, message):
    with pytest.raises(error, match=message):
        SAM(small_net().parameters(), base)


@pytest.mark.parametrize("params", [[], iter([]), [{"params": []}]])
def test_refuses_no_parameters(params):
    with pytest.raises(ValueError, match="params must hold at least one tensor, got"):
        SAM(params)


def test_refuses_a_single_tensor_as_torch_does():
    with pytest.raises(TypeError, match="an iterable of Tensors or dicts"):
        SAM(torch.nn.Parameter(torch.ones(2)))


def test_refuses_parameters_and_states_that_are_in_parts():
    params = list(small_net().parameters())
    with pytest.raises(ValueError, match=r"hold the state of .* got ZeroRedundan"):
        SAM(params, ZeroRedundancyOptimizer, optimizer_class=SGD)
    params[0]._fsdp_flattened = True  # as FSDP1 marks them
    with pytest.raises(ValueError, match=r"shards of .*, got a Parameter"):
        SAM(params)
    torch.distributed.init_process_group(
        "gloo", store=torch.distributed.HashStore(), rank=0, world_size=1
    )
    try:
        mesh = init_device_mesh("cpu", (1,))
        sharded = torch.nn.Parameter(distribute_tensor(torch.ones(4), mesh))
        optimizer = SAM(small_net().parameters())
        with pytest.raises(ValueError, match=r"shards of .*fully_shard, got a DT"):
            optimizer.add_param_group({"params": sharded})
    finally:
        torch.distributed.destroy_process_group()


def test_refuses_a_step_without_closure():
    with pytest.raises(TypeError, match=r"needs a closure.*first_step"):
        SAM(small_net().parameters()).step()


def test_refuses_an_option_of_a_group_also_later():
    with pytest.raises(ValueError, match="rho must be a finite number >= 0, got -2"):
        SAM([{"params": small_net().parameters(), "rho": -2}])
    problem = Problem()
    optimizer = SAM(problem.net.parameters())
    (group,) = optimizer.param_groups
    group["rho"] = math.nan
    with pytest.raises(ValueError, match="rho must be a finite number >= 0, got nan"):
        problem.train(optimizer, 1)
    group.update(rho=0.1, base_optimizer__lr=0.1)
    with pytest.raises(
        ValueError, match=r"base_optimizer__lr.* was set on an existing"
    ):
        problem.train(optimizer, 1)


def test_refuses_a_step_in_its_own_closure():
    problem = Problem()
    optimizer = SAM(problem.net.parameters())
    closure, before = problem.closure(optimizer), problem.snapshot()
    with pytest.raises(RuntimeError, match=r"step was called .* in the closure"):
        optimizer.step(lambda: optimizer.step(closure))
    assert_same(problem.snapshot(), before)


def test_an_interval_that_is_set_later_takes_effect():
    """As set_params sets them in an initialized net."""
    problem = Problem()
    optimizer = SAM(problem.net.parameters())
    (group,) = optimizer.param_groups
    group.update(interval=3)
    problem.train(optimizer, 6)
    assert problem.calls == 6 + 2


def test_both_spellings_of_base_options_are_taken_but_not_at_once():
    net = small_net()
    group = {"params": net.parameters(), "base_optimizer__lr": 0.5}
    optimizer = SAM([group], base_optimizer__betas=(0.5, 0.6))
    assert optimizer.param_groups[0]["betas"] == (0.5, 0.6)
    assert optimizer.param_groups[0]["lr"] == 0.5
    with pytest.raises(TypeError, match="multiple values for keyword argument 'lr'"):
        SAM(net.parameters(), lr=0.1, base_optimizer__lr=0.2)


@pytest.mark.parametrize("name", ["roh", "base_optimizer__roh"])
def test_an_option_that_neither_has_is_refused(name):
    with pytest.raises(TypeError, match=r"AdamW.*unexpected keyword argument 'roh'"):
        SAM(small_net().parameters(), **{name: 0.1})


# 8. Two steps


@pytest.mark.parametrize("name", ["AdamW", "SGD with momentum"])
def test_both_forms_are_the_same_training(name):
    base, options = BASES[name]
    states = []
    for train in (Problem.train, Problem.train_in_two_steps):
        torch.manual_seed(0)
        problem = Problem(small_net(dropout=0))
        train(problem, SAM(problem.net.parameters(), base, lr=0.01, **options), 5)
        states.append(problem.snapshot())
    assert_same(*states)


def test_two_steps_out_of_order_are_refused():
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
    with pytest.raises(RuntimeError, match="load_state_dict was called between"):
        optimizer.load_state_dict(optimizer.state_dict())
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


def test_two_steps_and_a_scheduler_do_not_warn():
    problem = Problem()
    optimizer = SAM(problem.net.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    for _ in range(3):
        problem.train_in_two_steps(optimizer, 1)
        scheduler.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1 / 8)


# 9. Memory


def test_a_net_may_change_its_dtype_during_training():
    problem = Problem()
    optimizer = SAM(problem.net.parameters(), SGD, lr=0.1, adaptive=True)
    problem.train(optimizer, 2)
    problem.net.double()
    problem.x, problem.y = problem.x.double(), problem.y.double()
    losses = problem.train(optimizer, 5)
    assert losses[-1] < losses[0]
    assert optimizer.last_perturbed_loss.dtype == torch.float64


def test_weights_of_two_dtypes_have_one_norm():
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


def held():
    """Return the bytes of all tensors in memory."""
    gc.collect()
    kinds = (torch.Tensor, torch.nn.Parameter)
    storages = [t.untyped_storage() for t in gc.get_objects() if type(t) in kinds]
    return sum({s.data_ptr(): s.nbytes() for s in storages}.values())


@pytest.mark.parametrize(("cls", "n_kept"), [(SAM, 0), (GSAM, 0), (FriendlySAM, 1)])
def test_steps_keep_nothing_but_a_moving_average_of_trained_weights(cls, n_kept):
    net = torch.nn.Sequential(torch.nn.Linear(5, 2000), torch.nn.Linear(2000, 1))
    frozen = torch.nn.Parameter(torch.ones(10**5), requires_grad=False)
    problem, n = Problem(net), sum(p.numel() for p in net.parameters())
    optimizer = cls([frozen, *net.parameters()], SGD, lr=1e-3, momentum=0.9)
    before = held()
    problem.train(optimizer, 2)
    # The gradient and the base optimizer's momentum come in addition.
    assert held() - before < (n_kept + 2.5) * n * 4
    loss, calls = problem.loss, iter((1, 1, 1))
    problem.loss = lambda: loss() / next(calls)
    with pytest.raises(StopIteration):  # in a second pass
        problem.train(optimizer, 2)
    assert held() - before < (n_kept + 2.5) * n * 4


# 14. Accumulated gradients


def zero_by_optimizer(problem, optimizer):
    optimizer.zero_grad()


def zero_in_place(problem, optimizer):
    optimizer.zero_grad(set_to_none=False)


def zero_by_module(problem, optimizer):
    problem.net.zero_grad()


def nothing(problem, optimizer):
    pass


@pytest.mark.parametrize(
    "before_step", [nothing, zero_by_optimizer, zero_by_module, zero_in_place]
)
@pytest.mark.parametrize(
    "in_closure", [nothing, zero_by_optimizer, zero_by_module, zero_in_place]
)
@pytest.mark.parametrize("kind", [SAM, MomentumSAM])
def test_a_closure_that_adds_to_gradients_of_earlier_batches_is_refused(
    before_step, in_closure, kind
):
    """As in Lightning with accumulate_grad_batches."""
    is_wrong = before_step is in_closure is nothing
    for rho in (0.0, 0.5):
        problem = Problem(small_net(dropout=0))
        optimizer = kind(problem.net.parameters(), lr=0.01, rho=rho)

        def closure(problem=problem, optimizer=optimizer):
            in_closure(problem, optimizer)
            loss = problem.loss()
            loss.backward()
            return loss

        problem.loss().backward()  # of an earlier batch
        for _ in range(3):
            before_step(problem, optimizer)
            if is_wrong and rho:
                before = problem.snapshot()
                with pytest.raises(RuntimeError, match="accumulate_grad_batches=1"):
                    optimizer.step(closure)
                weights = {name: before[name] for name, _ in
                           problem.net.named_parameters()}  # fmt: skip
                assert_same(weights, dict(problem.net.named_parameters()))
            else:
                optimizer.step(closure)


def test_gradients_that_a_closure_sets_are_not_added_to():
    w = torch.nn.Parameter(torch.ones(2))
    optimizer, gradient = SAM([w], SGD, lr=0.1, rho=0.5), torch.ones(2)

    def closure():
        w.grad = gradient
        return torch.zeros(())

    for _ in range(3):
        optimizer.step(closure)
    assert w.detach() == pytest.approx(torch.full((2,), 0.7))
