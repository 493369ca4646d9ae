"""Every variant against a few lines of NumPy, and errors of other implementations."""

import inspect
import math
import re

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
from tests.optim.helpers import FAMILY, Problem, assert_same

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
        ae_sam,
        {"lambda_1": -1.0, "lambda_2": 1.0, "total_steps": 8, "delta": 0.8},
    ),
    MomentumSAM: (momentum_sam, {}),
}
CLASSES = list(RULES)


def quadratic(w):
    scale = torch.linspace(0.1, 3, len(w), dtype=torch.float64)
    return 0.5 * (scale * w**2).sum() + w.prod()


def small_net(w):
    x = torch.linspace(-2, 2, 24, dtype=torch.float64).reshape(8, 3).sin()
    hidden = torch.tanh(x @ w[:12].reshape(3, 4) + w[12:16])
    return ((hidden @ w[16:20] - x.prod(dim=1)) ** 2).mean()


LOSSES = {"quadratic": (quadratic, 6), "small net": (small_net, 20)}


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
@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("problem", LOSSES)
@pytest.mark.parametrize("limit", [math.inf, 0.2])  # each pass's gradient is clipped
def test_equals_a_numpy_reference(cls, rule, options, base, problem, limit):
    numpy_base, torch_base, base_options = BASES[base]
    loss, n = LOSSES[problem]
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
        (SAM, {}, 200),
        (SAM, {"interval": 4}, 125),
        (GSAM, {}, 200),
        (WSAM, {}, 200),
        (FriendlySAM, {}, 200),
        (LookSAM, {}, 120),
        (LookSAM, {"interval": 2}, 150),
        (AESAM, {"lambda_2": -100.0}, 200),
        (AESAM, {"lambda_2": 100.0}, 100),
        (MomentumSAM, {}, 100),
    ],
)
def test_passes_in_100_steps(cls, options, passes):
    problem = Problem()
    problem.train(cls(problem.net.parameters(), **options), 100)
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
@pytest.mark.parametrize("resume", ["pickle", "state_dict"])
def test_resumes_in_the_middle_of_a_cycle_bit_for_bit(cls, resume, tmp_path):
    _, options = RULES[cls]
    torch.manual_seed(0)
    problem = Problem()
    optimizer = cls(problem.net.parameters(), **options)
    problem.train(optimizer, 7)
    file = tmp_path / "saved.pt"
    if resume == "pickle":
        torch.save((problem, optimizer), file)
        other, resumed = torch.load(file, weights_only=False)
    else:
        saved = (problem.net.state_dict(), optimizer.state_dict())
        torch.save(saved, file)
        other = Problem()
        resumed = cls(other.net.parameters(), **options)
        net_state, state = torch.load(file, weights_only=True)
        other.net.load_state_dict(net_state)
        resumed.load_state_dict(state)
    for one, its in ((problem, optimizer), (other, resumed)):
        torch.manual_seed(1)
        one.train(its, 5)
    assert_same(problem.snapshot(), other.snapshot())


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("base", [torch.optim.SGD, torch.optim.AdamW])
def test_without_a_learning_rate_no_weight_moves(cls, base):
    torch.manual_seed(0)
    problem = Problem()
    options = {"momentum": 0.9} if base is torch.optim.SGD else {}
    before = [p.clone() for p in problem.net.parameters()]
    problem.train(cls(problem.net.parameters(), base, lr=0.0, **options), 12)
    assert all(map(torch.equal, before, problem.net.parameters()))


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


# MomentumSAM's only pass is at w + epsilon.
@pytest.mark.parametrize("cls", [cls for cls in CLASSES if cls is not MomentumSAM])
def test_buffers_and_random_numbers_are_those_of_one_pass(cls):
    results = []
    for optimizer_class, options in ((torch.optim.AdamW, {}), (cls, {"rho": 0.5})):
        torch.manual_seed(0)
        problem = Problem()
        optimizer = optimizer_class(problem.net.parameters(), lr=0.0, **options)
        problem.train(optimizer, 6)
        results.append({**problem.snapshot(), "random": torch.rand(3)})
    assert_same(*results)


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("base", ["AdamW", "SGD"])
def test_one_cycle_schedule(cls, base):
    _, torch_base, options = BASES[base]
    problem = Problem()
    optimizer = cls(problem.net.parameters(), torch_base, lr=0.1, **options)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=0.1, total_steps=10
    )
    for _ in range(10):
        problem.train(optimizer, 1)
        if scheduler.last_epoch < 10:
            scheduler.step()
    assert all(p.isfinite().all() for p in problem.net.parameters())


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_is_left_to_the_base(cls, bad):
    p, q = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    optimizer = cls([p, q], torch.optim.SGD, lr=1.0, momentum=0.5)
    gradients = {p: torch.tensor([1.0, 2.0]), q: torch.tensor([bad, 1.0])}

    def closure():
        for param, gradient in gradients.items():
            param.grad = gradient.clone()
        return torch.tensor(0.0)

    optimizer.step(closure)
    assert torch.equal(p, torch.tensor([0.0, -1.0]))
    assert q[1] == 0
    gradients[q] = torch.ones(2)
    optimizer.step(closure)  # only the base's momentum depends on it
    assert p.isfinite().all()


@pytest.mark.parametrize("cls", CLASSES)
def test_gradients_that_are_missing_in_one_pass_or_both(cls):
    both, first, second, never = (torch.nn.Parameter(torch.ones(2)) for _ in range(4))
    optimizer = cls([both, first, second, never], torch.optim.SGD, lr=0.1, momentum=0.9)
    calls = []

    def closure():
        optimizer.zero_grad()
        calls.append(len(calls))
        other = second if len(calls) % 2 == 0 else first
        loss = (both * other).sum()
        loss.backward()
        return loss

    for _ in range(6):
        optimizer.step(closure)
    assert torch.equal(never, torch.ones(2))
    assert all(p.isfinite().all() for p in (both, first, second))


# Arguments


@pytest.mark.parametrize(
    ("cls", "options", "error", "message"),
    [
        (GSAM, {"alpha": -1}, ValueError, "alpha must be a finite number >= 0, got -1"),
        (
            GSAM,
            {"alpha": "x"},
            TypeError,
            "alpha must be a finite number >= 0, got 'x'",
        ),
        (
            WSAM,
            {"gamma": 1.0},
            ValueError,
            "gamma must be a number >= 0 and < 1, got 1",
        ),
        (FriendlySAM, {"lmbda": 1}, ValueError, "lmbda must be a number >= 0 and < 1"),
        (FriendlySAM, {"sigma": math.inf}, ValueError, "sigma must be a finite number"),
        (
            LookSAM,
            {"interval": 0},
            ValueError,
            "interval must be an integer >= 1, got 0",
        ),
        (LookSAM, {"alpha": None}, TypeError, "alpha must be a finite number >= 0"),
        (AESAM, {"lambda_2": math.nan}, ValueError, "lambda_2 must be a finite .* nan"),
        (AESAM, {"lambda_2": "1"}, TypeError, "lambda_2 must be a finite .* got '1'"),
        (
            AESAM,
            {"lambda_1": 1.0},
            TypeError,
            "total_steps must be the number of steps",
        ),
        (AESAM, {"delta": 1.0}, ValueError, "delta must be a number >= 0 and < 1"),
        (
            MomentumSAM,
            {"base_optimizer": torch.optim.SGD, "lr": 0.1},
            ValueError,
            "SGD keeps none .* torch.optim.SGD with momentum=0.9",
        ),
        (
            MomentumSAM,
            {"base_optimizer": torch.optim.Adagrad},
            ValueError,
            "Adagrad keeps none",
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


# Documentation


@pytest.mark.parametrize("cls", FAMILY)
def test_the_notes_state_the_rule_and_the_references_cite_the_paper(cls):
    doc = inspect.getdoc(cls)
    notes, references = doc.split("\nNotes\n")[1].split("\nReferences\n")
    assert "**Update rule" in notes
    assert "[1]_" in doc
    assert re.search(r"^\.\. \[1\](.|\n)*https://doi\.org/10\.", references, re.M)
    assert "braindecode_sam.SAMCallback : " in doc


@pytest.mark.parametrize("name", ["step", "first_step", "second_step", "restore"])
def test_methods_for_users_are_documented_by_sam_itself(name):
    assert "----" in inspect.getdoc(vars(SAM)[name])
