"""Time a whole cross-validation of EEGNeX and FastEEGNeX.

scikit-learn's ``cross_validate`` trains the configuration of Challenge 1, with fewer
epochs and subjects, in five folds of subjects. The data are simulated response times.
The variants take turns in one process.
"""

import argparse

import torch
from _report import add_common_arguments, interleaved_medians, print_with_machine
from sklearn.model_selection import GroupKFold, cross_validate

from braindecode_sam import SAM, SCORING, make_regressor
from braindecode_sam.datasets import simulate_response_times, to_arrays

VARIANTS = {
    "EEGNeX, AdamW": {"module": "EEGNeX", "optimizer": torch.optim.AdamW},
    "FastEEGNeX, AdamW": {"optimizer": torch.optim.AdamW},
    "FastEEGNeX, SAM": {"optimizer": SAM},
}


def make_run(options, epochs, data, device):
    """Build a function that cross-validates."""
    X, y, subjects = data
    net = make_regressor(
        "challenge_1", device=device, max_epochs=epochs, verbose=0, **options
    )

    def run():
        cross_validate(
            net, X, y, groups=subjects, cv=GroupKFold(5), scoring=SCORING,
            error_score="raise",
        )  # fmt: skip

    return run


def main():
    """Print a table."""
    parser = add_common_arguments(argparse.ArgumentParser(description=__doc__))
    parser.set_defaults(repeats=1)
    parser.add_argument("--subjects", type=int, default=10)
    parser.add_argument("--trials", type=int, default=32, help="trials per subject")
    parser.add_argument("--epochs", type=int, default=2)
    args = parser.parse_args()
    epochs = simulate_response_times(args.subjects, args.trials, random_state=0)
    data = to_arrays(epochs, target="response_time")
    runs = {
        variant: make_run(options, args.epochs, data, args.device)
        for variant, options in VARIANTS.items()
    }
    times = interleaved_medians(runs, args.repeats, args.device)
    rows = [
        {
            "training": variant,
            "seconds": ms / 1e3,
            "speed-up": times["EEGNeX, AdamW"] / ms,
        }
        for variant, ms in times.items()
    ]
    print_with_machine(rows, args.csv)


if __name__ == "__main__":
    main()
