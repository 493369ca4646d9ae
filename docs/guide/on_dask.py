"""Cross-validate on a Dask cluster, here of two local processes."""

import numpy as np
from distributed import Client
from sklearn.model_selection import GroupKFold, cross_validate

from braindecode_sam import SCORING, make_regressor
from braindecode_sam.model_selection import on_dask


def main():
    """Print the scores of three folds."""
    X = np.random.default_rng(0).normal(size=(24, 4, 128))
    X, y = X.astype("float32"), X[:, 0].mean(axis=1)
    subjects = np.repeat(np.arange(6), 4)
    net = make_regressor(
        "challenge_1",
        device="cpu",
        max_epochs=1,
        batch_size=4,
        verbose=0,
        random_state=0,
        n_threads=1,
        module__n_chans=4,
        module__n_times=128,
    )
    splits = list(GroupKFold(3).split(X, y, subjects))
    client = Client(n_workers=2, threads_per_worker=1, dashboard_address=":0")
    with client, on_dask(X, y, splits):
        scores = cross_validate(net, X, y, cv=splits, scoring=SCORING)
    print(scores["test_neg_nrmse"])


if __name__ == "__main__":  # the workers import this file
    main()
