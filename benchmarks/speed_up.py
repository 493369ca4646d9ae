"""Time a training step of braindecode's models before and after ``speed_up``.

A step is forward, backward and AdamW on new windows. The table shows the median
milliseconds of CPU time of the original model, and how many times faster ``speed_up``
makes it, by default and with ``exact_masks=False``. The runs are interleaved in one
process for each model. "By" tells what is faster: the "front" of the model, later
"convolutions", "ELU" or, with ``exact_masks=False``, dropout "masks". Models are left
out that need more than the size of the windows, or have over 20 million parameters.
"""

import argparse
import functools
import inspect
import multiprocessing
import warnings

import braindecode.models
import torch
from _report import cpu_medians, print_with_machine

from braindecode_sam import speed_up

warnings.filterwarnings("ignore")

SHAPES = {"(16, 22, 1000)": (16, 22, 1000), "(32, 64, 500)": (32, 64, 500)}
KINDS = {"stock": None, "fast": {}, "masks": {"exact_masks": False}}
PARTS = {
    "depthwise": "front",
    "merged kernel": "front",
    "FFT": "convolutions",
    "exp": "ELU",
    "mask": "masks",
}
MOST = 20e6  # parameters


def all_models():
    """Return the names of braindecode's models."""
    classes = inspect.getmembers(braindecode.models, inspect.isclass)
    names = [name for name, cls in classes if issubclass(cls, torch.nn.Module)]
    return [name for name in names if name != "REVE"]  # which downloads


def make_module(name, shape):
    """Build a model with the same weights each time; None if it needs more."""
    torch.manual_seed(0)
    size = {"n_chans": shape[1], "n_times": shape[2], "n_outputs": 4, "sfreq": 250}
    cls = getattr(braindecode.models, name)
    try:
        with torch.device("meta"):
            n_parameters = sum(p.numel() for p in cls(**size).parameters())
    except (ValueError, RuntimeError, TypeError, NotImplementedError):
        n_parameters = 0  # not on this device
    if n_parameters > MOST:
        return None
    try:
        module = cls(**size)
        module(torch.zeros(shape))
    except (ValueError, RuntimeError, TypeError, AttributeError):
        return None
    is_small = sum(p.numel() for p in module.parameters()) < MOST
    return module if is_small else None


def make_step(module, n_windows):
    """Build a function that makes a training step on given windows."""
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3)
    y = torch.randint(4, (n_windows,))

    def step(windows):
        optimizer.zero_grad()
        output = module(windows)
        output = output[0] if isinstance(output, tuple) else output
        output = output.flatten(2).mean(dim=2) if output.ndim > 2 else output
        torch.nn.functional.cross_entropy(output, y).backward()
        optimizer.step()

    return step


def measure(name, shape):
    """Return a model's part of a row, or None if it is left out."""
    steps, by = {}, set()
    for kind, options in KINDS.items():
        module = make_module(name, shape)
        if module is None:
            return None
        if options is not None:
            found = speed_up(module, **options)
            found = found[(found["train_from"] <= shape[0]).fillna(False)]
            by = {PARTS[pattern] for pattern in found["pattern"]}
        steps[kind] = make_step(module, shape[0])
    ms = cpu_medians(steps, functools.partial(torch.randn, shape), seconds=1.0)
    return {
        "by": ", ".join(part for part in dict.fromkeys(PARTS.values()) if part in by),
        "stock ms": ms["stock"],
        "times faster": ms["stock"] / ms["fast"],
        "other masks": ms["stock"] / ms["masks"],
    }


def measure_model(name, shapes, n_threads):
    """Return a model's row, or None if it is left out."""
    torch.set_num_threads(n_threads)
    row = {"model": name, "by": ""}
    for shape in shapes:
        found = measure(name, SHAPES[shape])
        if found is None:
            return None
        row["by"] = found.pop("by") or row["by"]
        row |= {f"{shape} {key}": value for key, value in found.items()}
    return row


def main():
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=all_models())
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), choices=SHAPES)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--csv", help="also write the table to this file")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    tasks = [(name, args.shapes, args.threads) for name in args.models]
    # A process for each: later models would reuse the memory of earlier ones.
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        rows = pool.starmap(measure_model, tasks, chunksize=1)
    print_with_machine([row for row in rows if row], args.csv)


if __name__ == "__main__":
    main()
