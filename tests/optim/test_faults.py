"""A step that fails anywhere leaves the weights from before or from after the step."""

import itertools
import signal
import sys
from pathlib import Path

import pytest
import torch
from torch.nn.modules import module as torch_module
from torch.utils._python_dispatch import TorchDispatchMode

import braindecode_sam
from braindecode_sam.optim import SAM, FriendlySAM
from tests.optim.helpers import Problem

OURS = str(Path(braindecode_sam.__file__).parent)


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
        self.problem = Problem()
        params = self.problem.net.parameters()
        self.optimizer = cls(params, Watched, lr=0.01, rho=0.5)
        self.problem.train(self.optimizer, n_steps)

    def step(self, form=Problem.train):
        self.optimizer.base_optimizer.has_begun = False
        torch.manual_seed(1)
        form(self.problem, self.optimizer, 1)

    def state(self):
        weights = [p.detach().clone() for p in self.problem.net.parameters()]
        return weights, _plain(self.optimizer.state_dict())


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
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    is_rolled_back = is_same(bench.state(), before)
    assert is_rolled_back or bench.optimizer.base_optimizer.has_begun
    return is_rolled_back


class FailingOperation(TorchDispatchMode):
    """Raise at the n-th operation on tensors, before or right after it.

    The operation that restores the weights does not count. It allocates nothing.
    """

    def __init__(self, number, error=None, *, after=False):
        super().__init__()
        self.number, self.error, self.after = number, error, after
        self.count, self.has_failed = 0, False

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is not torch.ops.aten._foreach_copy_.default
        fails = self.count == self.number and not self.has_failed
        self.has_failed |= fails
        if fails and not self.after:
            raise self.error(f"operation {self.number}, {function}")
        result = function(*args, **(kwargs or {}))
        if fails:
            raise self.error(f"after operation {self.number}, {function}")
        return result


# In the middle of a training and, where the base optimizer has no state, at its start
@pytest.mark.parametrize(
    ("cls", "n_steps", "error"),
    [(SAM, 5, KeyboardInterrupt), (FriendlySAM, 0, torch.OutOfMemoryError)],
)
def test_every_operation_of_a_step_may_fail(cls, n_steps, error):
    bench = Bench(cls, n_steps)
    before = bench.state()
    with FailingOperation(0) as mode:
        bench.step()
    after, n_operations = bench.state(), mode.count
    assert not is_same(before, after)
    assert n_operations > 100
    bench, n_kept = Bench(cls, n_steps), 0
    for number, is_after in itertools.product(range(1, n_operations + 1), (0, 1)):
        failing = FailingOperation(number, error, after=is_after)
        with pytest.raises(error, match=f"operation {number},"), failing:
            bench.step()
        is_rolled_back = check(bench, before)
        if number % 20 == 0 and is_rolled_back:  # no trace, also outside of the state
            bench.step()
            assert is_same(bench.state(), after)
        n_kept += not is_rolled_back
        if number % 20 == 0 or not is_rolled_back:
            bench = Bench(cls, n_steps)
    assert n_kept  # what the base optimizer has begun


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


@pytest.mark.parametrize("form", [Problem.train, Problem.train_in_two_steps])
def test_ctrl_c_may_come_at_any_line(form):
    bench = Bench(SAM)
    before = bench.state()
    with InterruptedLine() as lines:
        bench.step(form)
    bench = Bench(SAM)
    for number in range(1, lines.count + 1, 7):  # as all lines take long
        with pytest.raises(KeyboardInterrupt), InterruptedLine(number):
            bench.step(form)
        bench.optimizer.restore()  # as a loop of two steps has to
        if not check(bench, before):
            bench = Bench(SAM)


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


def test_other_handlers_of_ctrl_c_stay():
    bench = Bench(SAM)
    loss = bench.problem.loss

    def interrupted():
        if handler is signal.SIG_IGN:
            signal.raise_signal(signal.SIGINT)
        return loss()

    bench.problem.loss = interrupted
    for handler in (signal.SIG_IGN, signal.SIG_DFL):
        previous = signal.signal(signal.SIGINT, handler)
        try:
            bench.step()
            assert signal.getsignal(signal.SIGINT) == handler
        finally:
            signal.signal(signal.SIGINT, previous)
