"""Make the table, the sentences and the figures of the guide's page on comparing.

``python docs/figures/comparing.py`` takes some minutes on one core, and writes
``comparing*`` next to this file. Finished fits are kept in ``build/comparing``.
"""

from pathlib import Path

import numpy as np
import torch

from braindecode_sam import SAM, make_classifier
from braindecode_sam.comparison import compare
from braindecode_sam.datasets import simulate_response_times, to_arrays

HERE = Path(__file__).resolve().parent
COLUMNS = {
    "difference": "Difference",
    "ci_low": "95 % interval from",
    "ci_high": "to",
    "n_better": "Better for",
    "p_holm": "p (Holm)",
    "smallest_detectable": "Detectable (80 % power)",
}


def run():
    """Compare AdamW and SAM as the guide does, with all folds and seeds."""
    epochs = simulate_response_times(
        n_subjects=16, n_trials=20, n_chans=8, n_times=128, sfreq=64, random_state=0
    )
    X, times, subjects = to_arrays(epochs, target="response_time")
    medians = [np.median(times[subjects == s]) for s in subjects]
    labels = np.where(times > medians, "slow", "fast")

    def candidate(optimizer):
        return make_classifier(
            device="cpu", max_epochs=10, batch_size=32, verbose=0, n_threads=1,
            augmentation=None, optimizer=optimizer,
        )  # fmt: skip

    return compare(
        {"AdamW": candidate(torch.optim.AdamW), "SAM": candidate(SAM)},
        X, labels, subjects, by_epoch=True, folder=HERE.parents[1] / "build/comparing",
    )  # fmt: skip


def main():
    """Write the files that the page includes."""
    result = run()
    sentences = "\n".join(result.sentences())
    (HERE / "comparing.txt").write_text(sentences + "\n")
    table = result.comparisons()
    people = table.pop("n_subjects").astype(str)
    table["n_better"] = table["n_better"].astype(str) + " of " + people
    table = table[list(COLUMNS)].rename(columns=COLUMNS)
    table = table.rename_axis("Estimator")
    table.to_csv(HERE / "comparing.csv", float_format="%.3f")
    result.plot().savefig(HERE / "comparing.png", dpi=110)
    result.plot_by_epoch().savefig(HERE / "comparing_by_epoch.png", dpi=110)


if __name__ == "__main__":
    main()
