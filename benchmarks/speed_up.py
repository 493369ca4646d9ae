"""Time a training step of braindecode's models before and after ``speed_up``.

A step is forward, backward and AdamW on new windows. The table shows medians of CPU
time of interleaved runs in one process, and their ratio. With ``--kernels``, it shows
the number of operations that one forward and backward pass launches, without views.
"""

import argparse
import functools
import warnings

import braindecode.models
import torch
from _report import cpu_medians, print_with_machine
from torch.utils._python_dispatch import TorchDispatchMode

from braindecode_sam import speed_up

warnings.filterwarnings("ignore")

MODELS = ["EEGNet", "EEGConformer", "CTNet", "ATCNet", "MSVTNet", "EEGITNet"]
MODELS += ["TCFormer", "AttentionBaseNet", "EEGNeX"]
SHAPES = {"(16, 22, 1000)": (16, 22, 1000), "(32, 64, 500)": (32, 64, 500)}
# Operations that return a view.
VIEWS = {
    *("view", "reshape", "expand", "permute", "transpose", "t", "unfold", "diagonal"),
    *("slice", "select", "split", "split_with_sizes", "chunk", "narrow", "unbind"),
    *(
        "unsqueeze",
        "squeeze",
        "squeeze_",
        "as_strided",
        "detach",
        "alias",
        "_unsafe_view",
    ),
    *("view_as_real", "view_as_complex", "real", "imag", "lift_fresh", "_conj"),
}


def make_module(name, shape, is_fast):
    """Build a model with the same weights each time."""
    torch.manual_seed(0)
    module = getattr(braindecode.models, name)(
        n_chans=shape[1], n_times=shape[2], n_outputs=4, sfreq=250
    )
    if is_fast:
        speed_up(module)
    return module


def make_step(name, shape, is_fast):
    """Build a function that makes a training step on given windows."""
    module = make_module(name, shape, is_fast)
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3)
    y = torch.randint(4, shape[:1])

    def step(windows):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(module(windows), y).backward()
        optimizer.step()

    return step


class Counted(TorchDispatchMode):
    """Count operations without views."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function.overloadpacket.__name__ not in VIEWS
        return function(*args, **(kwargs or {}))


def count(name, shape):
    """Count one forward and backward pass before and after ``speed_up``."""
    found = {}
    for kind in ("stock", "fast"):
        module = make_module(name, shape, kind == "fast")
        for _ in range(2):  # fills the caches
            module(torch.randn(shape)).sum().backward()
        windows = torch.randn(shape)
        with Counted() as counted:
            module(windows).sum().backward()
        found[kind] = counted.count
    return found


def time_steps(name, shape):
    """Return the median milliseconds of CPU time before and after ``speed_up``."""
    steps = {k: make_step(name, shape, k == "fast") for k in ("stock", "fast")}
    return cpu_medians(steps, functools.partial(torch.randn, shape))


def main():
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), choices=SHAPES)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--kernels", action="store_true", help="count operations")
    parser.add_argument("--csv", help="also write the table to this file")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = []
    for name in args.models:
        row = {"model": name}
        for shape in args.shapes:
            if args.kernels:
                found = count(name, SHAPES[shape])
                row |= {f"{shape} {kind}": n for kind, n in found.items()}
            else:
                times = time_steps(name, SHAPES[shape])
                row |= {f"{shape} {kind} ms": ms for kind, ms in times.items()}
                row[f"{shape} stock / fast"] = times["stock"] / times["fast"]
        rows.append(row)
    print_with_machine(rows, args.csv)


if __name__ == "__main__":
    main()
