"""Time a training step of braindecode's models before and after ``speed_up``.

A step is forward, backward and AdamW on new windows. The table shows medians of CPU
time of interleaved runs in one process, and their ratio. With ``--kernels``, it shows
the number of operations that one forward and backward pass launches, without views.
With ``--roofline``, it shows a lower bound on the time of such a pass on two GPUs,
estimated from these numbers and from the arithmetic. Nothing is measured on a GPU.
"""

import argparse
import statistics
import time
import warnings

import braindecode.models
import torch
from _report import print_table
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from braindecode_sam import speed_up

warnings.filterwarnings("ignore")

MODELS = ["EEGNet", "EEGConformer", "CTNet", "ATCNet", "MSVTNet", "EEGITNet"]
MODELS += ["TCFormer", "AttentionBaseNet", "EEGNeX"]
SHAPES = {"(16, 22, 1000)": (16, 22, 1000), "(32, 64, 500)": (32, 64, 500)}
PEAKS = (7, 60)  # TFLOP/s in float32 of an older GPU and of a new one
LAUNCH = 5e-6  # seconds to launch a kernel, roughly
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
    """Count operations without views, and the FLOP of products and convolutions."""

    def __init__(self):
        super().__init__()
        self.count = self.flop = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        packet = function.overloadpacket
        self.count += packet.__name__ not in VIEWS
        out = function(*args, **kwargs)
        if packet in flop_registry:
            self.flop += flop_registry[packet](*args, **kwargs, out_val=out)
        return out


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
        found[kind] = counted
    return found


def estimate(name, shape):
    """Estimate the milliseconds of one forward and backward pass on GPUs."""
    counted = count(name, shape)
    flops = {kind: counts.flop for kind, counts in counted.items()}
    # FFTs are not counted. Their multiply-adds are added, three times for forward and
    # backward. This counts the projections twice.
    after = speed_up(make_module(name, shape, is_fast=False))["after"].sum()
    flops["fast"] += 3 * 2 * shape[0] * after
    row = {f"{kind} GFLOP": value / 1e9 for kind, value in flops.items()}
    for kind, counts in counted.items():
        row[f"{kind} launches"] = 1e3 * LAUNCH * counts.count
    for peak in PEAKS:
        for kind, value in flops.items():
            row[f"{kind} at {peak}"] = 1e3 * value / (1e12 * peak)
    return row


def time_steps(name, shape, repeats):
    """Return the median milliseconds of CPU time before and after ``speed_up``."""
    steps = {k: make_step(name, shape, k == "fast") for k in ("stock", "fast")}
    milliseconds = {kind: [] for kind in steps}
    for round_ in range(repeats + 1):
        for kind, step in steps.items():
            windows = torch.randn(shape)
            start = time.process_time()
            step(windows)
            if round_:  # the first one is a warm-up
                milliseconds[kind].append(1e3 * (time.process_time() - start))
    return {kind: statistics.median(values) for kind, values in milliseconds.items()}


def main():
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), choices=SHAPES)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--kernels", action="store_true", help="count operations")
    parser.add_argument("--roofline", action="store_true", help="estimate for GPUs")
    parser.add_argument("--csv", help="also write the table to this file")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = []
    for name in args.models:
        row = {"model": name}
        if args.roofline:
            rows += [
                {**row, "windows": shape, **estimate(name, SHAPES[shape])}
                for shape in args.shapes
            ]
            continue
        for shape in args.shapes:
            if args.kernels:
                found = count(name, SHAPES[shape])
                row |= {f"{shape} {kind}": c.count for kind, c in found.items()}
            else:
                times = time_steps(name, SHAPES[shape], args.repeats)
                row |= {f"{shape} {kind} ms": ms for kind, ms in times.items()}
                row[f"{shape} stock / fast"] = times["stock"] / times["fast"]
        rows.append(row)
    print_table(rows, args.csv)


if __name__ == "__main__":
    main()
