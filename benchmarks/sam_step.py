"""Time the SAM step itself: ascent and restore, without passes and base step.

Ours is ``SAM.step`` with a closure that does nothing, so it includes saving and
replaying the random numbers and the hook that holds BatchNorm's statistics.
pytorch_optimizer's is ``first_step`` and ``second_step``, which do neither. Both
wrap a base optimizer that does nothing. Runs are interleaved; medians are shown.
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


def make_steps(model_class, device):
    """Build both steps, each on a model of its own with gradients in place."""
    models = [_with_gradients(model_class, device) for _ in range(3)]
    sam, two_step = (SAM(m.parameters(), Idle, rho=0.05) for m in models[:2])
    other = OtherSAM(models[2].parameters(), Idle, rho=0.05)
    loss = torch.zeros((), device=device)

    def both(optimizer):
        optimizer.first_step()
        optimizer.second_step()

    return {
        "step": lambda: sam.step(lambda: loss),
        "two-step": lambda: both(two_step),
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
    print(f"{'microseconds':<14}{'step':>8}{'two-step':>10}{'pytorch_optimizer':>19}")
    for model_class in (EEGNet, EEGNeX, Deep4Net):
        steps = make_steps(model_class, args.device)
        median_microseconds(steps, args.repeats // 10, args.device)  # warm up
        t = median_microseconds(steps, args.repeats, args.device)
        a, b, c = t["step"], t["two-step"], t["pytorch_optimizer"]
        print(f"{model_class.__name__:<14}{a:8.0f}{b:10.0f}{c:19.0f}")
        print(f"{'  ratio':<14}{a / c:8.2f}{b / c:10.2f}{1:19.2f}")


if __name__ == "__main__":
    warnings.filterwarnings("ignore", message=".*parametrization.*")
    main()
