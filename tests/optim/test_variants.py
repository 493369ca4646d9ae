"""Every variant against a few lines of NumPy, and errors of other implementations."""

import copy
import math
import pickle

import numpy as np
import pytest
import torch

from braindecode_sam.optim import (
    AESAM,
    GSAM,
    SAM,
    WSAM,
    FriendlySAM,
    LookSAM,
    MomentumSAM,
)
from tests.optim.helpers import Problem, assert_same, save_and_load

RHO, LR, MOMENTUM, DECAY = 0.3, 0.05, 0.9, 0.01
N_WEIGHTS = 4  # the others are biases


# The base optimizers, in NumPy. Each is a generator that yields its momentum, receives
# the direction of descent, and changes the weights in place.


def sgd(w):
    v = np.zeros_like(w)
    while True:
        d = yield v
        v = MOMENTUM * v + d + DECAY * w
        w -= LR * v


def adamw(w):
    m, v, t = np.zeros_like(w), np.zeros_like(w), 0
    while True:
        d = yield m
        t += 1
        w *= 1 - LR * DECAY
        m = 0.9 * m + 0.1 * d
        v = 0.999 * v + 0.001 * d**2
        w -= LR * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)


BASES = {
    "SGD": (sgd, torch.optim.SGD, {"momentum": MOMENTUM}),
    "AdamW": (adamw, torch.optim.AdamW, {}),
}


# The update rules. Each is a generator that receives the base's momentum and yields the
# direction of descent. It computes one gradient per pass.


def unit(x):
    return x / np.linalg.norm(x)


def sam(w, grad):
    while True:
        yield grad(w + RHO * unit(grad(w)))


def asam(w, grad, adaptive, eta):
    is_weight = np.arange(len(w)) < N_WEIGHTS
    while True:
        g = grad(w)
        t = np.where(is_weight, np.abs(w) + eta, 1.0)
        yield grad(w + RHO * t**2 * g / np.linalg.norm(t * g))


def gsam(w, grad, alpha):
    while True:
        g = grad(w)
        g_p = grad(w + RHO * unit(g))
        yield g_p - alpha * (g - (g @ g_p) / (g_p @ g_p) * g_p)


def wsam(w, grad, gamma):
    a = gamma / (1 - gamma)
    while True:
        g = grad(w)
        yield (1 - a) * g + a * grad(w + RHO * unit(g))


def friendly_sam(w, grad, sigma, lmbda):
    m = np.zeros_like(w)
    while True:
        g = grad(w)
        g_p = grad(w + RHO * unit(g - sigma * m))
        m = lmbda * m + (1 - lmbda) * g
        yield g_p


def look_sam(w, grad, interval, alpha):
    while True:
        g = grad(w)
        g_p = grad(w + RHO * unit(g))
        g_v = g_p - (g @ g_p) / (g @ g) * g
        yield g_p
        for _ in range(interval - 1):
            g = grad(w)
            yield g + alpha * np.linalg.norm(g) / np.linalg.norm(g_v) * g_v


def ae_sam(w, grad, lambda_1, lambda_2, total_steps, delta):
    mean = variance = 0.0
    for t in range(100):
        g = grad(w)
        mean = delta * mean + (1 - delta) * (g @ g)
        variance = delta * variance + (1 - delta) * (g @ g - mean) ** 2
        c_t = lambda_2 + (lambda_1 - lambda_2) * min(t / total_steps, 1)
        is_sharp = g @ g >= mean + c_t * np.sqrt(variance)
        yield grad(w + RHO * unit(g)) if is_sharp else g


def momentum_sam(w, grad):
    v = np.zeros_like(w)
    while True:
        v = yield grad(w - RHO * unit(v) if v.any() else w)


RULES = {
    SAM: (sam, {}),
    GSAM: (gsam, {"alpha": 0.3}),
    WSAM: (wsam, {"gamma": 0.7}),
    FriendlySAM: (friendly_sam, {"sigma": 0.8, "lmbda": 0.6}),
    LookSAM: (look_sam, {"interval": 3, "alpha": 0.5}),
    AESAM: (
        ae_sam, {"lambda_1": -1.0, "lambda_2": 1.0, "total_steps": 8, "delta": 0.8}
    ),
    MomentumSAM: (momentum_sam, {}),
}  # fmt: skip
CLASSES = list(RULES)


def quadratic(w):
    scale = torch.linspace(0.1, 3, len(w), dtype=torch.float64)
    return 0.5 * (scale * w**2).sum() + w.prod()


def loss_of_a_net(w):
    x = torch.linspace(-2, 2, 24, dtype=torch.float64).reshape(8, 3).sin()
    hidden = torch.tanh(x @ w[:12].reshape(3, 4) + w[12:16])
    return ((hidden @ w[16:20] - x.prod(dim=1)) ** 2).mean()


# A loss, its number of weights, a base optimizer, the limit of each pass's gradient
PROBLEMS = [
    (loss_of_a_net, 20, "SGD", math.inf),
    (quadratic, 6, "AdamW", 0.2),
]


def numpy_steps(rule, base, loss, w, options, n_steps, limit):
    def grad(w):
        w = torch.tensor(w, requires_grad=True)
        g = torch.autograd.grad(loss(w), w)[0].numpy()
        # as clip_grad_norm_ does, 1e-6 included
        return g * min(1, limit / (np.linalg.norm(g) + 1e-6))

    w = w.copy()
    step, directions = base(w), rule(w, grad, **options)
    momentum, direction = next(step), next(directions)
    for _ in range(n_steps - 1):
        momentum = step.send(direction)
        direction = directions.send(momentum)
    step.send(direction)
    return w


@pytest.mark.parametrize(
    ("cls", "rule", "options"),
    [(cls, *rest) for cls, rest in RULES.items()]
    + [(SAM, asam, {"adaptive": True, "eta": 0.02})],
)
@pytest.mark.parametrize(("loss", "n", "base", "limit"), PROBLEMS)
def test_equals_a_numpy_reference(cls, rule, options, loss, n, base, limit):
    numpy_base, torch_base, base_options = BASES[base]
    w = np.random.default_rng(0).normal(size=n)
    expected = numpy_steps(rule, numpy_base, loss, w, options, 10, limit)
    # Two groups, so that inner products and norms are over both.
    parts = [torch.nn.Parameter(torch.tensor(p)) for p in np.split(w, [N_WEIGHTS])]
    names = ["layer.weight", "layer.bias"]
    groups = [{"params": [named]} for named in zip(names, parts, strict=True)]
    optimizer = cls(
        groups, torch_base,
        rho=RHO, lr=LR, weight_decay=DECAY, **options, **base_options,
    )  # fmt: skip

    def closure():
        optimizer.zero_grad()
        value = loss(torch.cat(parts))
        value.backward()
        torch.nn.utils.clip_grad_norm_(parts, limit)
        return value

    for _ in range(10):
        optimizer.step(closure)
    found = torch.cat(parts).detach().numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("cls", "options", "passes"),
    [
        (SAM, {}, 40),
        (SAM, {"rho": 0.0}, 20),
        (SAM, {"interval": 4}, 25),
        (GSAM, {}, 40),
        (LookSAM, {}, 24),
        (AESAM, {"lambda_2": -100.0}, 40),
        (AESAM, {"lambda_2": 100.0}, 20),
        (MomentumSAM, {}, 20),
    ],
)
def test_passes_in_20_steps(cls, options, passes):
    problem = Problem()
    problem.train(cls(problem.net.parameters(), **options), 20)
    assert problem.calls == passes


def test_ae_sam_perturbs_some_steps():
    problem = Problem()
    problem.train(AESAM(problem.net.parameters()), 100)
    assert 110 < problem.calls < 190


# Errors of other implementations


def test_the_moving_average_of_a_constant_gradient_reaches_it():
    p = torch.nn.Parameter(torch.zeros(3))
    optimizer = FriendlySAM([p], torch.optim.SGD, lr=0.0)

    def closure():
        optimizer.zero_grad()
        loss = p.sum()
        loss.backward()
        return loss

    for _ in range(200):
        optimizer.step(closure)
    assert optimizer.state[p]["sam__mean_gradient"] == pytest.approx(torch.ones(3))


@pytest.mark.parametrize("cls", CLASSES)
def test_resumes_in_the_middle_of_a_cycle_bit_for_bit(cls):
    _, options = RULES[cls]
    problem, by_state = Problem(), Problem()
    optimizer = cls(problem.net.parameters(), **options)
    problem.train(optimizer, 7)
    by_state.net.load_state_dict(problem.net.state_dict())
    resumed = cls(by_state.net.parameters(), **options)
    resumed.load_state_dict(save_and_load(optimizer.state_dict()))
    original = problem, optimizer
    copies = [copy.deepcopy(original), pickle.loads(pickle.dumps(original))]
    states = []
    for one, its in (original, (by_state, resumed), *copies):
        torch.manual_seed(1)
        one.train(its, 5)
        states.append(one.snapshot())
    for state in states[1:]:
        assert_same(states[0], state)


@pytest.mark.parametrize("cls", CLASSES)
def test_without_a_radius_it_is_the_base_alone(cls):
    results = []
    for optimizer_class, options in ((torch.optim.AdamW, {}), (cls, {"rho": 0.0})):
        torch.manual_seed(0)
        problem = Problem()
        optimizer = optimizer_class(problem.net.parameters(), lr=0.01, **options)
        losses = problem.train(optimizer, 12)
        results.append((losses, problem.calls, problem.snapshot()))
    assert results[0][:2] == results[1][:2]
    assert_same(results[0][2], results[1][2])


@pytest.mark.parametrize("cls", CLASSES)
def test_with_fixed_weights_a_step_changes_what_one_pass_changes(cls):
    results = []
    for optimizer_class, options in ((torch.optim.AdamW, {}), (cls, {"rho": 0.5})):
        torch.manual_seed(0)
        problem = Problem()
        optimizer = optimizer_class(problem.net.parameters(), lr=0.0, **options)
        problem.train(optimizer, 6)
        results.append({**problem.snapshot(), "random": torch.rand(3)})
    if cls is MomentumSAM:  # whose only pass is at w + epsilon
        for state in results:
            del state["1.running_mean"], state["1.running_var"]
    assert_same(*results)


@pytest.mark.parametrize("cls", CLASSES)
def test_a_gradient_that_is_not_finite_is_left_to_the_base(cls):
    for bad in (math.nan, math.inf):
        p, q = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
        optimizer = cls([p, q], torch.optim.SGD, lr=1.0, momentum=0.5)
        gradients = {p: torch.tensor([1.0, 2.0]), q: torch.tensor([bad, 1.0])}

        def closure(gradients=gradients):
            for param, gradient in gradients.items():
                param.grad = gradient.clone()
            return torch.tensor(0.0)

        optimizer.step(closure)
        assert torch.equal(p, torch.tensor([0.0, -1.0]))
        assert q[1] == 0
        gradients[q] = torch.ones(2)
        optimizer.step(closure)  # only the base's momentum depends on it
        assert p.isfinite().all()
        for _ in range(5):  # a norm is None in steps without a second pass
            optimizer.step(closure)
            assert cls is MomentumSAM or math.isfinite(optimizer.last_grad_norm or 0)


@pytest.mark.parametrize("cls", CLASSES)
def test_steps_that_fail_leave_no_trace_in_those_that_follow(cls):
    options = {"lambda_2": -100.0} if cls is AESAM else {}  # perturbs in every step
    problem = Problem()
    optimizer = cls(problem.net.parameters(), rho=0.5, **options)
    problem.train(optimizer, 5)  # LookSAM perturbs in the next one
    other, same = copy.deepcopy((problem, optimizer))
    loss = problem.loss
    for failing_pass in (1,) if cls is MomentumSAM else (1, 2):
        losses = [*[loss] * (failing_pass - 1), lambda: 1 / 0]
        problem.loss = lambda losses=losses: losses.pop(0)()
        with pytest.raises(ZeroDivisionError):
            problem.train(optimizer, 1)
    problem.loss = loss
    groups = [one.state_dict()["param_groups"] for one in (optimizer, same)]
    assert groups[0] == groups[1]
    for one, its in ((problem, optimizer), (other, same)):
        torch.manual_seed(1)
        one.train(its, 6)
    weights, expected = (dict(p.net.named_parameters()) for p in (problem, other))
    assert_same(weights, expected)


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("cls", CLASSES)
def test_gradients_that_are_missing_in_one_pass_or_both_spoil_no_weight(cls, base):
    both, first, second, never = (torch.nn.Parameter(torch.ones(2)) for _ in range(4))
    _, torch_base, options = BASES[base]
    optimizer = cls([both, first, second, never], torch_base, lr=0.1, **options)
    calls = []

    def closure():
        optimizer.zero_grad()
        calls.append(len(calls))
        other = second if len(calls) % 2 == 0 else first
        loss = (both * other).sum()
        loss.backward()
        return loss

    for _ in range(7):
        optimizer.step(closure)
        if len(calls) > 6:  # another order
            calls.append(len(calls))
    assert torch.equal(never, torch.ones(2))
    assert all(p.isfinite().all() for p in (both, first, second))


def of_both(a, b):
    """Set one tensor as the gradient of both, as autograd.grad returns it."""
    loss = ((a + b) ** 4).sum()
    a.grad, b.grad = torch.autograd.grad(loss, [a, b])
    return loss


def by_backward(a, b):
    loss = ((a + b) ** 4).sum()
    loss.backward()
    return loss


@pytest.mark.parametrize("cls", CLASSES)
def test_parameters_may_share_their_gradient(cls):
    found = []
    for gradients in (of_both, by_backward):
        a, b = (torch.nn.Parameter(torch.tensor([0.1, 0.2, 0.3])) for _ in range(2))
        optimizer = cls([a, b], torch.optim.SGD, lr=0.1, momentum=0.9)

        def closure(optimizer=optimizer, pair=(a, b), gradients=gradients):
            optimizer.zero_grad()
            return gradients(*pair)

        for _ in range(3):
            optimizer.step(closure)
        found.append(torch.cat([a, b]).detach())
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("cls", CLASSES)
def test_gradients_may_be_expanded(cls):
    p = torch.nn.Parameter(torch.ones(3))
    optimizer = cls([p], torch.optim.SGD, lr=0.1, momentum=0.9)

    def closure():
        optimizer.zero_grad()
        loss = p.sum()
        (p.grad,) = torch.autograd.grad(loss, [p])
        return loss

    for _ in range(3):
        optimizer.step(closure)
    assert p.isfinite().all()


class Momentumless(torch.optim.SGD):
    """Takes betas, but keeps nothing of the name of a momentum."""

    def __init__(self, params, lr=0.1, betas=(0.9, 0.99)):
        super().__init__(params, lr=lr)
        for group in self.param_groups:
            group["betas"] = betas

    def step(self, closure=None):
        super().step()
        for p in self.param_groups[0]["params"]:
            self.state[p]["another"] = torch.zeros_like(p)


def test_a_base_that_turns_out_to_keep_no_momentum_is_refused():
    problem = Problem()
    optimizer = MomentumSAM(problem.net.parameters(), Momentumless)
    with pytest.raises(ValueError, match="but Momentumless keeps none"):
        problem.train(optimizer, 2)


# Arguments


@pytest.mark.parametrize(
    ("cls", "options", "error", "message"),
    [
        (GSAM, {"alpha": -1}, ValueError, "alpha must be a finite number >= 0, got -1"),
        (WSAM, {"gamma": 1.0}, ValueError, "gamma must be a number >= 0 and < 1, got"),
        (FriendlySAM, {"lmbda": 1}, ValueError, "lmbda must be a number >= 0 and < 1"),
        (FriendlySAM, {"sigma": math.inf}, ValueError, "sigma must be a finite number"),
        (LookSAM, {"interval": 0}, ValueError, "interval must be an integer >= 1, got"),
        (LookSAM, {"alpha": None}, TypeError, "alpha must be a finite number >= 0"),
        (AESAM, {"lambda_2": math.nan}, ValueError, "lambda_2 must be a finite .* nan"),
        (AESAM, {"lambda_1": 1.0}, TypeError, "total_steps must be the number of step"),
        (AESAM, {"total_steps": -3}, ValueError, "total_steps must be a finite .* -3"),
        (AESAM, {"delta": 1.0}, ValueError, "delta must be a number >= 0 and < 1"),
        (
            MomentumSAM,
            {"base_optimizer": torch.optim.SGD},
            ValueError,
            "SGD keeps none .*optim.SGD with mom",
        ),
    ],
)
def test_refuses_options(cls, options, error, message):
    with pytest.raises(error, match=message):
        cls(Problem().net.parameters(), **options)


def test_refuses_an_option_of_a_group():
    groups = [{"params": [torch.nn.Parameter(torch.ones(1))], "alpha": -2}]
    with pytest.raises(ValueError, match=r"alpha must be .*, got -2"):
        GSAM(groups)
