"""Make the table of NRMSEs of the guide's page on validation.

``python docs/figures/validation.py`` takes a few minutes on one core, and writes
``validation.csv`` next to this file.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.compose import TransformedTargetRegressor
from sklearn.dummy import DummyRegressor
from sklearn.model_selection import GroupKFold, cross_validate
from sklearn.preprocessing import StandardScaler

from braindecode_sam import make_regressor
from braindecode_sam import normalized_root_mean_squared_error as nrmse
from braindecode_sam.datasets import simulate_response_times, to_arrays
from braindecode_sam.model_selection import out_of_fold_predictions

HERE = Path(__file__).parent
KINDS = {"standard deviation": "std", "range": "range"}


def main():
    """Write the file that the page includes."""
    epochs = simulate_response_times(
        n_chans=16, n_times=128, sfreq=64, random_state=0
    )  # 12 subjects of 30 trials
    X, times, subjects = to_arrays(epochs, target="response_time")
    net = make_regressor(
        "challenge_1", device="cpu", max_epochs=20, batch_size=32, verbose=0,
        augmentation=None, random_state=0, n_threads=1, module__n_chans=16,
        module__n_times=128,
    )  # fmt: skip
    models = {
        "SAM": TransformedTargetRegressor(net, transformer=StandardScaler()),
        "mean": DummyRegressor(),
    }
    splits = list(GroupKFold(5).split(X, times, subjects))
    parts = {f"Fold {i}": rows for i, (_, rows) in enumerate(splits, 1)}
    table = pd.DataFrame(index=[*parts, "Mean of the folds", "Pooled"])
    table.index.name = "Targets"
    predicted = {}
    for name, model in models.items():
        results = cross_validate(
            model, X, times, cv=splits, return_estimator=True, return_indices=True
        )
        predicted[name] = np.ravel(out_of_fold_predictions(results, X))
    for kind, normalization in KINDS.items():
        for name, values in predicted.items():
            scores = [
                nrmse(times[rows], values[rows], normalization=normalization)
                for rows in parts.values()
            ]
            pooled = nrmse(times, values, normalization=normalization)
            table[f"{name}, by {kind}"] = [*scores, np.mean(scores), pooled]
    table.to_csv(HERE / "validation.csv", float_format="%.2f")


if __name__ == "__main__":
    main()
