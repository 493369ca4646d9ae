"""A step that fails anywhere leaves the state from before or from after the step."""

import itertools
import signal
import sys
from pathlib import Path

import pytest
import torch
from torch.nn.modules import module as torch_module
from torch.utils._python_dispatch import TorchDispatchMode

import braindecode_sam.optim
from braindecode_sam.optim import AESAM, SAM, MomentumSAM
from tests.optim.helpers import FAMILY, Problem

pytestmark = pytest.mark.slow

OUT_OF_MEMORY = torch.OutOfMemoryError
OURS = str(Path(braindecode_sam.optim.__file__).parent)


class Counting(torch.nn.Module):
    """Has a buffer that is not a normalization statistic."""

    def __init__(self):
        super().__init__()
        self.register_buffer("n_calls", torch.zeros(()))

    def forward(self, x):
        self.n_calls += 1
        return x


class Watched(torch.optim.AdamW):
    """Records whether its own step has begun, since that is not rolled back."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.has_begun = False

    def step(self, closure=None):
        self.has_begun = True
        super().step(closure)


class Bench:
    """A problem in the middle of its training, which can be reset."""

    def __init__(self, cls, n_steps=5):
        torch.manual_seed(0)
        self.cls = cls
        options = {"lambda_2": -100.0} if cls is AESAM else {}  # perturbs in every step
        net = torch.nn.Sequential(Counting(), *Problem().net)
        self.problem = Problem(net)
        self.optimizer = cls(net.parameters(), Watched, lr=0.01, rho=0.5, **options)
        self.problem.train(self.optimizer, n_steps)

    def step(self):
        self.optimizer.base_optimizer.has_begun = False
        torch.manual_seed(1)
        self.problem.train(self.optimizer, 1)

    def state(self):
        values = [*self.problem.snapshot().values()]
        return values, _plain(self.optimizer.state_dict())


def _plain(node):
    if isinstance(node, torch.Tensor):
        return node.tolist()
    if isinstance(node, dict):
        return {key: _plain(value) for key, value in node.items()}
    if isinstance(node, (list, tuple)):
        return list(map(_plain, node))
    return node


def is_same(first, second):
    return first[1] == second[1] and all(map(torch.equal, first[0], second[0]))


def check(bench, before):
    """Return whether the step was rolled back, which holds until the base's begins."""
    assert not torch_module._global_forward_pre_hooks
    assert not any(m._forward_hooks for m in bench.problem.net.modules())
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert not bench.optimizer._perturbed
    is_rolled_back = is_same(bench.state(), before)
    assert is_rolled_back or bench.optimizer.base_optimizer.has_begun
    return is_rolled_back


class FailingOperation(TorchDispatchMode):
    """Raise at the n-th operation on tensors, before or right after it."""

    def __init__(self, number, error=None, *, after=False):
        super().__init__()
        self.number, self.error, self.after = number, error, after
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += 1
        fails = self.count == self.number
        if fails and not self.after:
            raise self.error(f"operation {self.number}, {function}")
        result = function(*args, **(kwargs or {}))
        if fails:
            raise self.error(f"after operation {self.number}, {function}")
        return result


def states_and_length(cls):
    """Return the states before and after a step, and its number of operations."""
    bench = Bench(cls)
    before = bench.state()
    with FailingOperation(0) as mode:
        bench.step()
    assert not is_same(before, bench.state())
    return before, bench.state(), mode.count


@pytest.mark.parametrize("cls", FAMILY)
@pytest.mark.parametrize("error", [OUT_OF_MEMORY, KeyboardInterrupt])
def test_every_operation_of_a_step_may_fail(cls, error, tried):
    before, after, n_operations = states_and_length(cls)
    assert n_operations > 100
    bench = Bench(cls)
    for number in range(1, n_operations + 1):
        with (
            pytest.raises(error, match=f"operation {number},"),
            FailingOperation(number, error, after=number % 2 == 0),
        ):
            bench.step()
        if not check(bench, before):
            bench = Bench(cls)
        tried[f"faults, {error.__name__} at an operation"] += 1
    bench = Bench(cls)
    bench.step()
    assert is_same(bench.state(), after)


def test_failed_steps_leave_no_trace_in_those_that_follow():
    """This includes what is kept outside the state."""
    states = []
    for fails in (False, True):
        bench = Bench(AESAM)
        for number in range(60, 100, 4) if fails else ():
            failing = FailingOperation(number, ValueError)
            with pytest.raises(ValueError, match="operation"), failing:
                bench.step()
        for rho in (0.0, 0.5, 0.5):
            bench.optimizer.param_groups[0]["rho"] = rho
            bench.step()
        states.append(bench.state())
    assert is_same(*states)


class InterruptedLine:
    """Send SIGINT at the n-th line of this package's code or torch's optimizers."""

    def __init__(self, number=None):
        self.number = number
        self.count = 0

    def __enter__(self):
        self._previous = sys.gettrace()
        sys.settrace(self._trace)
        return self

    def __exit__(self, *exc_info):
        sys.settrace(self._previous)

    def _trace(self, frame, event, argument):
        name = frame.f_code.co_filename
        if not (name.startswith(OURS) or "torch/optim" in name):
            return None
        if event == "line":
            self.count += 1
            if self.count == self.number:
                signal.raise_signal(signal.SIGINT)
        return self._trace


@pytest.mark.parametrize("cls", FAMILY)
def test_ctrl_c_may_come_at_any_line(cls, tried):
    bench = Bench(cls)
    before = bench.state()
    with InterruptedLine() as lines:
        bench.step()
    bench = Bench(cls)
    # Every seventh line, shifted from class to class, as all lines take minutes.
    for number in range(1 + FAMILY.index(cls), lines.count + 1, 7):
        with pytest.raises(KeyboardInterrupt), InterruptedLine(number):
            bench.step()
        if not check(bench, before):
            bench = Bench(cls)
        tried["faults, Ctrl-C at a line"] += 1


def test_ctrl_c_in_the_closure_raises_at_once_and_a_second_one_is_deferred():
    bench = Bench(SAM)
    before, order = bench.state(), []
    closure = bench.problem.closure(bench.optimizer)

    def interrupted():
        loss = closure()
        try:
            signal.raise_signal(signal.SIGINT)
        finally:
            order.append("cleaning up")
            signal.raise_signal(signal.SIGINT)
            order.append("cleaned up")
        return loss

    with pytest.raises(KeyboardInterrupt):
        bench.optimizer.step(interrupted)
    assert order == ["cleaning up", "cleaned up"]
    assert check(bench, before)


@pytest.mark.parametrize("handler", [signal.SIG_IGN, signal.SIG_DFL])
def test_other_handlers_of_ctrl_c_stay(handler):
    bench = Bench(SAM)
    previous = signal.signal(signal.SIGINT, handler)
    try:
        bench.step()
        assert signal.getsignal(signal.SIGINT) == handler
    finally:
        signal.signal(signal.SIGINT, previous)


def test_a_handler_that_the_closure_sets_stays():
    bench = Bench(SAM)
    closure = bench.problem.closure(bench.optimizer)
    seen = []

    def setting():
        signal.signal(signal.SIGINT, lambda *args: seen.append(args))
        return closure()

    try:
        bench.optimizer.step(setting)
        signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    assert len(seen) == 1


class HalfWay(torch.optim.SGD):
    """Fails after it has updated the first weight."""

    fails = False

    def step(self, closure=None):
        for group in self.param_groups:
            for i, p in enumerate(group["params"]):
                p.sub_(group["lr"] * p.grad)
                if self.fails and i == 0:
                    raise OUT_OF_MEMORY("half-way")


@pytest.mark.parametrize("is_two_step", [False, True])
def test_a_base_that_fails_leaves_the_same_state_as_without_sam(is_two_step):
    problem = Problem()
    optimizer = SAM(problem.net.parameters(), HalfWay, lr=0.1, rho=5.0)

    def step():
        if is_two_step:
            problem.loss().backward()
            optimizer.first_step()
            optimizer.second_step()
        else:
            problem.train(optimizer, 1)

    step()
    before = [p.detach().clone() for p in problem.net.parameters()]
    optimizer.base_optimizer.fails = True
    with pytest.raises(OUT_OF_MEMORY, match="half-way"):
        step()
    first, *others = problem.net.parameters()
    assert torch.equal(first, before[0] - 0.1 * first.grad)
    assert all(map(torch.equal, others, before[1:]))
    assert optimizer.n_steps == 1
    optimizer.base_optimizer.fails = False
    step()
    assert optimizer.n_steps == 2


def test_the_very_first_step_may_fail():
    """The base optimizer has no state before it, and none after it."""
    for number in itertools.count(1, 17):
        bench = Bench(MomentumSAM, n_steps=0)
        before = bench.state()
        try:
            with FailingOperation(number, MemoryError) as mode:
                bench.step()
        except MemoryError:
            if check(bench, before):
                assert not any(bench.optimizer.state.values())
        if mode.count < number:
            break
    assert number > 100
