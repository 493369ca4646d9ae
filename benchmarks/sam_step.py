"""Time a SAM step without the passes: what SAM adds to two forwards and backwards.

Medians of interleaved runs in microseconds, each around an optimizer that does nothing:

- ``arithmetic``: saving, ascent and restore of our SAM alone;
- ``two-step``: our ``first_step`` and ``second_step``, which also hold BatchNorm's
  statistics between them;
- ``step``: our ``step`` with a closure that does nothing, which also saves and replays
  the random numbers and is wrapped in torch's profiler record as any ``step`` is;
- ``pytorch_optimizer``: its ``first_step`` and ``second_step``, which do none of that.

Below each the ratio to the last.
"""

import argparse
import statistics
import time
import warnings

import torch
from braindecode.models import Deep4Net, EEGNet, EEGNeX
from pytorch_optimizer import SAM as OtherSAM  # noqa: N811

from braindecode_sam import SAM


class Idle(torch.optim.Optimizer):
    """An optimizer whose step does nothing."""

    def __init__(self, params, lr=1e-3, **ignored):
        super().__init__(params, {"lr": lr})

    def step(self, closure=None):
        """Do nothing."""

    step.hooked = True  # or torch would wrap it in a profiler's record


def make_steps(model_class, device):
    """Build the steps, each on a model of its own with gradients in place."""
    models = [_with_gradients(model_class, device) for _ in range(4)]
    alone, two_step, closure = (SAM(m.parameters(), Idle, rho=0.05) for m in models[:3])
    other = OtherSAM(models[3].parameters(), Idle, rho=0.05)
    loss = torch.zeros((), device=device)

    @torch.no_grad()
    def arithmetic():
        alone._save()
        alone._ascend()
        alone._restore()

    def both(optimizer):
        optimizer.first_step()
        optimizer.second_step()

    return {
        "arithmetic": arithmetic,
        "two-step": lambda: both(two_step),
        "step": lambda: closure.step(lambda: loss),
        "pytorch_optimizer": lambda: both(other),
    }


def _with_gradients(model_class, device):
    model = model_class(n_chans=72, n_outputs=1, n_times=500).to(device)
    for p in model.parameters():
        p.grad = torch.randn_like(p)
    return model


def median_microseconds(steps, repeats, device):
    """Run the steps in turn and return the median time of each."""
    seconds = {name: [] for name in steps}
    for _ in range(repeats):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            seconds[name].append(time.perf_counter() - start)
    return {name: 1e6 * statistics.median(s) for name, s in seconds.items()}


def main():
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=2000)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    args = parser.parse_args()
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}")
    for model_class in (EEGNet, EEGNeX, Deep4Net):
        steps = make_steps(model_class, args.device)
        if model_class is EEGNet:
            print(" " * 10, *(f"{name:>18}" for name in steps))
        median_microseconds(steps, args.repeats // 10, args.device)  # warm up
        times = median_microseconds(steps, args.repeats, args.device)
        print(f"{model_class.__name__:<10}", *(f"{t:18.0f}" for t in times.values()))
        ratios = [t / times["pytorch_optimizer"] for t in times.values()]
        print(f"{'  ratio':<10}", *(f"{ratio:18.2f}" for ratio in ratios))


if __name__ == "__main__":
    warnings.filterwarnings("ignore", message=".*parametrization.*")
    main()
