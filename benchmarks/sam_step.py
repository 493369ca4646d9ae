"""Time what a SAM step adds to its two passes.

Each pass calls the modules of a real model, but their forwards compute nothing. What
remains is the time of the optimizer, and of preserving buffers and random numbers. The
base optimizer does nothing either. The table shows medians of interleaved bursts in
microseconds of CPU time:

- ``passes``: both passes without an optimizer;
- ``arithmetic``: ``SAM``'s perturbation and its removal, without passes;
- ``step``: ``SAM.step(closure)``, which preserves buffers and random numbers;
- ``two-step``: a pass, ``SAM.first_step``, a pass and ``SAM.second_step``;
- ``theirs, bare``: pytorch_optimizer's ``first_step`` and ``second_step``, no passes;
- ``theirs, step``: a pass and pytorch_optimizer's ``step(closure)``;
- ``theirs, two-step``: as ``two-step``, with pytorch_optimizer.

The ratio to ``theirs, bare`` is given in parentheses. ``own`` is the time of ``step``
without that of ``passes``. pytorch_optimizer preserves
neither buffers nor random numbers. With ``top`` calls, a pass calls the model alone.
With ``all`` calls, it calls each module in it, which the global hook that finds buffers
slows down.

A second table shows a whole step, with its passes, of a model with two layers: of
AdamW alone, and of SAM around it.
"""

import argparse
import functools
import itertools
import statistics
import time
import warnings

import torch
from _report import print_with_machine
from braindecode.models import Deep4Net, EEGNet, EEGNeX
from pytorch_optimizer import SAM as OtherSAM  # noqa: N811

from braindecode_sam import SAM

MODELS = (EEGNet, EEGNeX, Deep4Net)
BURST = 10
CALLS = ("top", "all")  # the model alone, or all modules in it


class Idle(torch.optim.Optimizer):
    """An optimizer whose step does nothing."""

    def __init__(self, params, lr=1e-3, **ignored):
        super().__init__(params, {"lr": lr})

    def step(self, closure=None):
        """Do nothing."""

    step.hooked = True  # or torch would wrap it in a profiler's record


class Problem:
    """A model with gradients, whose modules can be called but compute nothing."""

    def __init__(self, model_class, device, calls):
        self.model = model_class(n_chans=72, n_outputs=1, n_times=500).to(device)
        self.x = torch.zeros(1, device=device)
        for module in self.model.modules():
            children = list(module.children())
            module.forward = functools.partial(
                _call_all, children if calls == "all" else []
            )
        for p in self.model.parameters():
            p.grad = torch.randn_like(p)

    def run_pass(self):
        """Call all modules, as a forward would."""
        return self.model(self.x)


def _call_all(children, x):
    for child in children:
        child(x)
    return x


def make_steps(model_class, device, calls):
    """Build the steps, each with a separate model."""
    problems = [Problem(model_class, device, calls) for _ in range(7)]

    def ours(problem):
        return SAM(problem.model.parameters(), Idle, rho=0.05)

    def theirs(problem):
        return OtherSAM(problem.model.parameters(), Idle, rho=0.05)

    def keep_gradients(problem):
        # A step drops the gradients before its second pass. A backward would make new.
        grads = [(p, p.grad) for p in problem.model.parameters()]

        def closure():
            for p, grad in grads:
                p.grad = grad
            return problem.run_pass()

        return closure

    def passes(run):
        run()
        run()

    def arithmetic(optimizer):
        optimizer.first_step()
        optimizer.restore()

    def bare(optimizer):
        optimizer.first_step()
        optimizer.second_step()

    def two_step(optimizer, run):
        run()
        optimizer.first_step()
        run()
        optimizer.second_step()

    def pass_and_step(optimizer, run):
        run()
        optimizer.step(run)

    runs = [keep_gradients(problem) for problem in problems]
    steps = {
        "passes": (passes, runs[0]),
        "arithmetic": (arithmetic, ours(problems[1])),
        "step": (ours(problems[2]).step, runs[2]),
        "two-step": (two_step, ours(problems[3]), runs[3]),
        "theirs, bare": (bare, theirs(problems[4])),
        "theirs, step": (pass_and_step, theirs(problems[5]), runs[5]),
        "theirs, two-step": (two_step, theirs(problems[6]), runs[6]),
    }
    return {name: functools.partial(*parts) for name, parts in steps.items()}


def median_microseconds(steps, repeats, device):
    """Run bursts of each step in turn; return the median time per step.

    Within a burst, the CPU's caches hold what the step itself has left there.
    """
    seconds = {name: [] for name in steps}
    for _ in range(repeats):
        for name, step in steps.items():
            step()
            start = time.process_time()
            for _ in range(BURST):
                step()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            seconds[name].append((time.process_time() - start) / BURST)
    return {name: 1e6 * statistics.median(s) for name, s in seconds.items()}


def make_row(calls, model_class, times):
    """Return one row of the table: times, and their ratios in parentheses."""
    bare = times["theirs, bare"]
    times = {**times, "own": times["step"] - times["passes"]}
    cells = {name: f"{t:.0f} ({t / bare:.2f})" for name, t in times.items()}
    return {"calls": calls, "model": model_class.__name__, **cells}


def make_whole_step(cls, device):
    """Build a step of an optimizer on a small model, with its passes."""
    model = torch.nn.Sequential(
        torch.nn.Linear(5, 8),
        torch.nn.BatchNorm1d(8),
        torch.nn.ELU(),
        torch.nn.Linear(8, 1),
    ).to(device)
    x, y = torch.randn(32, 5, device=device), torch.randn(32, 1, device=device)
    optimizer = cls(model.parameters(), lr=1e-3)

    def closure():
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(model(x), y)
        loss.backward()
        return loss

    return functools.partial(optimizer.step, closure)


def main():
    """Print two tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--calls", nargs="+", default=CALLS, choices=CALLS)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--csv", help="also write the table to this file")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = []
    for calls, model_class in itertools.product(args.calls, MODELS):
        steps = make_steps(model_class, args.device, calls)
        median_microseconds(steps, args.repeats // 10, args.device)  # warm up
        times = median_microseconds(steps, args.repeats, args.device)
        rows.append(make_row(calls, model_class, times))
    print_with_machine(rows, args.csv)
    steps = {
        cls.__name__: make_whole_step(cls, args.device)
        for cls in (torch.optim.AdamW, SAM)
    }
    times = median_microseconds(steps, args.repeats, args.device)
    ratio = times["SAM"] / times["AdamW"]
    print_with_machine([{**times, "ratio": ratio}], None)


if __name__ == "__main__":
    warnings.filterwarnings("ignore", message=".*parametrization.*")
    main()
