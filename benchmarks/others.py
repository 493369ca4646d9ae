"""Ask of several implementations of SAM what users of braindecode need of one.

Each is used as its documentation shows: a closure that makes every pass, a first pass
by the loop and a closure for the second one (pytorch_optimizer), or two steps around
the second pass. "textbook" is the usual implementation in a few lines, written here.
A cell is yes, no, or the error that was raised. In the rows of braindecode's nets,
"stale gradient" is a training whose steps make a single pass, at weights that are
perturbed along the gradient of the batch before. It takes a few seconds on a CPU.
"""

import argparse
import copy
import dataclasses
import io
import pickle
from collections.abc import Callable
from importlib import metadata

import numpy as np
import pytorch_optimizer
import torch
from _report import print_table
from braindecode import EEGClassifier, EEGRegressor

import braindecode_sam

BASE = torch.optim.AdamW


class TextbookSAM(torch.optim.Optimizer):
    """Two steps around the second pass; the base optimizer is an attribute."""

    def __init__(self, params, base_optimizer, rho=0.05, **options):
        super().__init__(params, {"rho": rho, **options})
        self.base_optimizer = base_optimizer(self.param_groups, **options)

    def _with_gradient(self):
        groups = self.param_groups
        return [
            (p, g["rho"]) for g in groups for p in g["params"] if p.grad is not None
        ]

    @torch.no_grad()
    def first_step(self, zero_grad=False):
        """Climb to the perturbed weights."""
        norm = torch.stack([p.grad.norm() for p, _ in self._with_gradient()]).norm()
        self.offsets = [(p, rho / norm * p.grad) for p, rho in self._with_gradient()]
        for p, offset in self.offsets:
            p.add_(offset)
        if zero_grad:
            self.zero_grad()

    @torch.no_grad()
    def second_step(self, zero_grad=False):
        """Climb down, and let the base optimizer step."""
        for p, offset in self.offsets:
            p.sub_(offset)
        self.base_optimizer.step()
        if zero_grad:
            self.zero_grad()

    def step(self, closure):
        """Make both, with the second pass in between."""
        self.first_step(zero_grad=True)
        with torch.enable_grad():
            closure()
        self.second_step()


def by_closure(optimizer, closure):
    """Leave both passes to the optimizer."""
    optimizer.step(closure)


def by_pass_and_closure(optimizer, closure):
    """Make the first pass, and leave the second one to the optimizer."""
    closure()
    optimizer.step(closure)


def by_two_steps(optimizer, closure):
    """Make both passes."""
    closure()
    optimizer.first_step(zero_grad=True)
    closure()
    optimizer.second_step(zero_grad=True)


@dataclasses.dataclass
class Implementation:
    """An optimizer and the loop that it is documented with."""

    cls: type
    step: Callable
    is_for_nets: bool = True


IMPLEMENTATIONS = {
    "braindecode_sam": Implementation(braindecode_sam.SAM, by_closure),
    "braindecode_sam, two steps": Implementation(
        braindecode_sam.SAM, by_two_steps, is_for_nets=False
    ),
    "pytorch_optimizer": Implementation(pytorch_optimizer.SAM, by_pass_and_closure),
    "textbook": Implementation(TextbookSAM, by_two_steps),
}


class Training:
    """A model with BatchNorm and dropout, its batch, and an optimizer."""

    def __init__(self, implementation, **options):
        torch.manual_seed(0)
        self.model = torch.nn.Sequential(
            torch.nn.Linear(8, 16),
            torch.nn.BatchNorm1d(16),
            torch.nn.Dropout(0.5),
            torch.nn.Linear(16, 1),
        )
        self.x, self.y = torch.randn(32, 8), torch.randn(32, 1)
        self.take_step = implementation.step
        self.optimizer = implementation.cls(
            self.model.parameters(), base_optimizer=BASE, lr=0.01, **options
        )
        self.passes = 0

    def closure(self):
        """Make a pass."""
        self.passes += 1
        self.optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(self.model(self.x), self.y)
        loss.backward()
        return loss

    def train(self, seed, n_steps=3):
        """Make some steps."""
        torch.manual_seed(seed)
        for _ in range(n_steps):
            self.take_step(self.optimizer, self.closure)
        return self

    def weights(self):
        """Give the weights."""
        return [weight.detach().clone() for weight in self.model.parameters()]

    def values(self):
        """Give weights and buffers."""
        return [value.clone() for value in self.model.state_dict().values()]


def are_equal(a, b):
    """Compare bit for bit."""
    return all(torch.equal(one, other) for one, other in zip(a, b, strict=True))


# The questions. Each returns whether all is well, or what happens, or raises.


def trains_a_regressor(implementation):
    """Fit an EEGRegressor, and look at the passes of each step."""
    return _trains(EEGRegressor, implementation, np.linspace(0, 1, 16, dtype="f4"))


def trains_a_classifier(implementation):
    """Fit an EEGClassifier, likewise."""
    return _trains(EEGClassifier, implementation, np.tile([0, 1], 8))


def _trains(net_class, implementation, y):
    steps = []  # of each step, for each of its passes: were the weights perturbed?

    class WatchedNet(net_class):
        def _step_optimizer(self, step_fn):
            start = [p.clone() for p in self.module_.parameters()]
            steps.append([])

            def watched():
                steps[-1].append(not are_equal(start, self.module_.parameters()))
                return step_fn()

            super()._step_optimizer(watched)

    X = np.random.default_rng(0).normal(size=(16, 4, 128)).astype("float32")
    net = WatchedNet(
        "EEGNet", optimizer=implementation.cls, optimizer__base_optimizer=BASE,
        module__final_layer_with_constraint=True, max_epochs=2, batch_size=8,
        train_split=None, verbose=0,
    )  # fmt: skip
    net.fit(X, y)
    if [True] in steps:
        return "stale gradient"
    return len(steps) == 4 and all(passes == [False, True] for passes in steps)


def updates_batch_norm_once(implementation):
    """Compare the running statistics after a step with those after one pass."""
    stepped, passed = Training(implementation), Training(implementation)
    stepped.train(seed=1, n_steps=1)
    torch.manual_seed(1)
    passed.closure()
    return are_equal(stepped.model[1].buffers(), passed.model[1].buffers())


def repeats_dropout(implementation):
    """Compare the dropout masks of the two passes."""
    training, masks = Training(implementation), []
    training.model[2].register_forward_hook(lambda _m, _x, out: masks.append(out == 0))
    training.train(seed=1, n_steps=1)
    first, second = masks
    return torch.equal(first, second)


def equals_the_base(implementation):
    """Train with rho=0 and with the base optimizer alone."""
    alone = Training(Implementation(_Alone, by_closure))
    return are_equal(
        Training(implementation, rho=0.0).train(seed=1).values(),
        alone.train(seed=1).values(),
    )


class _Alone(BASE):
    """The base optimizer, made as a SAM is."""

    def __init__(self, params, base_optimizer, **options):
        super().__init__(params, **options)


def keeps_state(implementation):
    """Continue from the state dicts, saved and loaded as skorch does."""
    saved, loaded = Training(implementation).train(seed=1), Training(implementation)
    file = io.BytesIO()
    torch.save([saved.model.state_dict(), saved.optimizer.state_dict()], file)
    file.seek(0)
    model, optimizer = torch.load(file, weights_only=True)
    loaded.model.load_state_dict(model)
    loaded.optimizer.load_state_dict(optimizer)
    return are_equal(saved.train(seed=2).values(), loaded.train(seed=2).values())


def can_be_pickled(implementation):
    """Continue with a copy of model and optimizer that went through pickle."""
    original = Training(implementation).train(seed=1)
    copied = copy.copy(original)
    packed = pickle.dumps((original.model, original.optimizer))
    copied.model, copied.optimizer = pickle.loads(packed)
    return are_equal(original.train(seed=2).values(), copied.train(seed=2).values())


def restores_after_a_failure(implementation):
    """Let the second pass run out of memory, and compare the weights."""
    training = Training(implementation).train(seed=1)
    before, training.passes = training.weights(), 0

    def fail(module, args):
        if training.passes == 2:
            raise MemoryError

    training.model.register_forward_pre_hook(fail)
    try:
        training.train(seed=2, n_steps=1)
    except MemoryError:
        return are_equal(before, training.weights())
    return False


QUESTIONS = {
    "EEGRegressor": trains_a_regressor,
    "EEGClassifier": trains_a_classifier,
    "BatchNorm updated once": updates_batch_norm_once,
    "Same dropout mask in both passes": repeats_dropout,
    "rho=0 is the base optimizer": equals_the_base,
    "Resumes from state_dict": keeps_state,
    "Resumes from a pickle": can_be_pickled,
    "Weights restored if a pass fails": restores_after_a_failure,
}


def answer(question, implementation):
    """Give the answer as text."""
    if not implementation.is_for_nets and question in (
        trains_a_regressor,
        trains_a_classifier,
    ):
        return "n/a"
    try:
        found = question(implementation)
    except Exception as error:  # that is an answer
        return type(error).__name__
    return {True: "yes", False: "no"}.get(found, found)


def make_table():
    """Ask everything of everyone; a row for each question."""
    return [
        {"question": asked}
        | {name: answer(question, one) for name, one in IMPLEMENTATIONS.items()}
        for asked, question in QUESTIONS.items()
    ]


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--csv", help="also write the table to this file")
    args = parser.parse_args()
    print_table(make_table(), args.csv)
    for name in ("pytorch_optimizer", "torch", "skorch", "braindecode"):
        print(name, metadata.version(name))


if __name__ == "__main__":
    main()
