"""Count the parameters of the competition notes' models for both challenges."""

import argparse

from _report import SHAPES, print_table
from braindecode.models import Deep4Net, EEGNet, EEGNeX

from braindecode_sam.models import CompactCNN, SeparableEEGNet

MODELS = (CompactCNN, EEGNet, EEGNeX, Deep4Net, SeparableEEGNet)


def count(model, shape):
    """Return the number of parameters of a model for windows of a shape."""
    _, n_chans, n_times, n_outputs = shape
    module = model(n_chans=n_chans, n_times=n_times, n_outputs=n_outputs)
    return sum(p.numel() for p in module.parameters())


def main():
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--csv", help="also write the table to this file")
    args = parser.parse_args()
    rows = [
        {"model": model.__name__}
        | {name: count(model, SHAPES[name]) for name in ("challenge_1", "challenge_2")}
        for model in MODELS
    ]
    print_table(rows, args.csv)


if __name__ == "__main__":
    main()
