"""Time braindecode's models before and after ``speed_up``, by the size of the batch.

The table shows medians of processor time of interleaved runs in one process, on new
windows and one thread, and their ratio. A training step is forward, backward and AdamW.
By default, sizes are small, where the original layers are often faster. ``--large``
measures how the speed-up grows with channels and windows.
"""

import argparse
import copy
import functools
import itertools
import warnings

import braindecode.models
import torch
from _report import cpu_medians, print_with_machine

from braindecode_sam import speed_up

warnings.filterwarnings("ignore")  # other libraries would clutter the output

MODELS = ["EEGNet", "EEGNeX", "ATCNet", "CTNet"]
SMALL = {  # batch sizes, channels, samples
    "predict": ((1, 16), (3, 8, 22), (64, 125, 250, 500)),
    "train": ((8, 16, 32), (3, 8), (64, 125, 250, 500)),
}
LARGE = {"predict": ((1, 4, 16, 64), (2, 4, 8, 16, 32, 64, 128), (250,))}
LARGE["train"] = LARGE["predict"]


def build(name, n_chans, n_times):
    """Build a model, or None if the windows are too short for it."""
    try:
        model = getattr(braindecode.models, name)(
            n_chans=n_chans, n_times=n_times, n_outputs=2, sfreq=128
        )
        model(torch.randn(2, n_chans, n_times))
    except (RuntimeError, ValueError):
        return None
    return model


def make_run(model, what, batch):
    """Build a function that predicts, or makes a training step."""
    model.train(what == "train")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    y = torch.zeros(batch, dtype=torch.long)

    def predict(x):
        with torch.no_grad():
            model(x)

    def train(x):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()

    return train if what == "train" else predict


def main():
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--large", action="store_true", help="larger sizes")
    parser.add_argument("--seconds", type=float, default=0.5, help="for each row")
    parser.add_argument("--csv", help="also write the table to this file")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name in args.models:
        for what, (batches, *sizes) in (LARGE if args.large else SMALL).items():
            for n_chans, n_times in itertools.product(*sizes):
                stock = build(name, n_chans, n_times)
                if stock is None:
                    continue
                fast = copy.deepcopy(stock)
                speed_up(fast)
                for batch in batches:
                    runs = {
                        "stock": make_run(stock, what, batch),
                        "fast": make_run(fast, what, batch),
                    }
                    make_input = functools.partial(torch.randn, batch, n_chans, n_times)
                    ms = cpu_medians(runs, make_input, args.seconds)
                    rows.append(
                        {
                            "model": name,
                            "what": what,
                            "windows": batch,
                            "channels": n_chans,
                            "samples": n_times,
                            "stock ms": ms["stock"],
                            "fast ms": ms["fast"],
                            "stock / fast": ms["stock"] / ms["fast"],
                        }
                    )
    print_with_machine(rows, args.csv)
    slowest = min(rows, key=lambda row: row["stock / fast"])
    print(f"lowest stock / fast: {slowest['stock / fast']:.2f}")


if __name__ == "__main__":
    main()
