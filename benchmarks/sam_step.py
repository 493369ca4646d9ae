"""Time what a SAM step adds to its two passes.

Every pass calls the modules of a real model, whose forwards compute nothing: what is
left is what the optimizers and the protection of buffers and random numbers cost.
Around a base optimizer that does nothing, medians of interleaved bursts, in
microseconds of processor time:

- ``passes``: the modules called twice, without an optimizer;
- ``arithmetic``: our ascent and restore alone, without passes;
- ``step``: our ``step(closure)``, with buffers and random numbers preserved;
- ``two-step``: pass, our ``first_step``, pass, our ``second_step``;
- ``theirs bare``: pytorch_optimizer's ``first_step`` and ``second_step`` alone;
- ``their step``: pytorch_optimizer's pass and ``step(closure)``;
- ``their two-step``: as ours.

pytorch_optimizer preserves neither buffers nor random numbers. Below each is its ratio
to ``theirs bare``. In the first table a pass calls the model alone, in the second every
module in it: the global hook that finds buffers makes each call of a module slower.
"""

import argparse
import functools
import statistics
import time
import warnings

import torch
from braindecode.models import Deep4Net, EEGNet, EEGNeX
from pytorch_optimizer import SAM as OtherSAM  # noqa: N811

from braindecode_sam import SAM

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
    """A model with gradients in place, whose modules are called and compute nothing."""

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
    """Build the steps, each on a model of its own."""
    problems = [Problem(model_class, device, calls) for _ in range(7)]

    def ours(problem):
        return SAM(problem.model.parameters(), Idle, rho=0.05)

    def theirs(problem):
        return OtherSAM(problem.model.parameters(), Idle, rho=0.05)

    def keep_gradients(problem):
        # A step drops the gradients before its second pass; a backward would give new.
        grads = [(p, p.grad) for p in problem.model.parameters()]

        def closure():
            for p, grad in grads:
                p.grad = grad
            return problem.run_pass()

        return closure

    def passes(run):
        run()
        run()

    @torch.no_grad()
    def arithmetic(optimizer):
        optimizer._perturb()
        optimizer._unperturb()

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
        "theirs bare": (bare, theirs(problems[4])),
        "their step": (pass_and_step, theirs(problems[5]), runs[5]),
        "their two-step": (two_step, theirs(problems[6]), runs[6]),
    }
    return {name: functools.partial(*parts) for name, parts in steps.items()}


def median_microseconds(steps, repeats, device):
    """Run bursts of each step in turn; return the median time of a step.

    In a burst, a step is preceded by its like and not by another's leftovers in the
    processor's caches.
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


def print_rows(name, times):
    """Print the times of a model, and their ratios."""
    bare = times["theirs bare"]
    rows = {
        name: [f"{t:14.0f}" for t in times.values()],
        "  ratio": [f"{t / bare:14.2f}" for t in times.values()],
    }
    for label, cells in rows.items():
        print(f"{label:<10}", *cells)


def main():
    """Print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--calls", nargs="+", default=CALLS, choices=CALLS)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"{args.threads} threads, torch {torch.__version__}, microseconds")
    for calls in args.calls:
        print(f"calls: {calls}")
        for model_class in (EEGNet, EEGNeX, Deep4Net):
            steps = make_steps(model_class, args.device, calls)
            if model_class is EEGNet:
                print(" " * 10, *(f"{name:>14}" for name in steps))
            median_microseconds(steps, args.repeats // 10, args.device)  # warm up
            times = median_microseconds(steps, args.repeats, args.device)
            print_rows(model_class.__name__, times)


if __name__ == "__main__":
    warnings.filterwarnings("ignore", message=".*parametrization.*")
    main()
