"""
Folds and grid search on a Dask cluster that loses a worker
===========================================================

``cross_validate`` and ``GridSearchCV`` run as they are on a cluster, by way of joblib's
Dask backend. Here the cluster is two worker processes on this machine; with
``Client("tcp://scheduler:8786")`` it is yours. One of them is killed in the middle, and
the scores are the same to the last bit. Needs ``pip install
"braindecode_sam[distributed]"``.
"""

import argparse
import os
import signal
import threading
import time

import matplotlib.pyplot as plt
import numpy as np
from distributed import Client, LocalCluster
from sklearn.dummy import DummyRegressor
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_validate

from braindecode_sam import SCORING, make_regressor
from braindecode_sam.datasets import simulate_response_times, to_arrays
from braindecode_sam.model_selection import on_dask
from braindecode_sam.visualization import plot_fold_scores

# %%
# The data and the net
# --------------------
# ``random_state`` gives every fold the same seed, for its first weights, shuffling,
# augmentation and dropout. Sums over threads depend on their number in the last bits,
# so that is set as well: one each, since a core for every worker is fastest.


def make_data_and_net(args):
    """Simulate trials and build a net, small enough for two minutes."""
    epochs = simulate_response_times(
        args.subjects, args.trials, n_chans=24, n_times=250, random_state=0
    )
    net = make_regressor(
        "challenge_1", device="cpu", max_epochs=args.epochs, verbose=0,
        module__n_chans=24, module__n_times=250,
        random_state=0, callbacks__seed__n_threads=1,
    )  # fmt: skip
    return to_arrays(epochs, target="response_time"), net


# %%
# The cluster
# -----------
# Dask's nannies start a killed worker again; ``on_dask`` sees to it that no data are
# lost with it, and sends them to every worker once.


def kill_one_worker_after(seconds, cluster):
    """Kill a worker's process in the middle of its fold."""

    def kill():
        time.sleep(seconds)
        worker = next(iter(cluster.workers.values()))
        print(f"killing worker {worker.pid}", flush=True)
        os.kill(worker.pid, signal.SIGKILL)

    threading.Thread(target=kill, daemon=True).start()


def main(args):
    """Cross-validate here and there, then search for rho there."""
    (X, y, subjects), net = make_data_and_net(args)
    splits = list(GroupKFold(5).split(X, y, subjects))
    folds = {"cv": splits, "scoring": SCORING, "error_score": "raise"}
    start = time.perf_counter()
    here = cross_validate(net, X, y, **folds)
    seconds = time.perf_counter() - start
    print(f"one process: {seconds:.1f} s, 5 scores", flush=True)
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address=None
        ) as cluster,
        Client(cluster),
        on_dask(X, y, splits),
    ):
        kill_one_worker_after(0.4 * seconds, cluster)
        there = cross_validate(net, X, y, **folds)
        print(f"two workers, one of them killed: {len(there['test_neg_nrmse'])} scores")
        search = GridSearchCV(
            net, {"optimizer__rho": [0.0, 0.05]}, cv=splits, scoring="r2", refit=False
        ).fit(X, y)
    for name in SCORING:
        same = np.array_equal(here[f"test_{name}"], there[f"test_{name}"])
        print(f"{name}: {'the same to the last bit' if same else 'DIFFERENT'}")
    for rho, r2 in zip(
        search.cv_results_["param_optimizer__rho"],
        search.cv_results_["mean_test_score"],
        strict=True,
    ):
        print(f"rho {rho}: mean R2 over the folds {r2:.3f}")
    mean = cross_validate(DummyRegressor(), X, y, **folds)
    plot_fold_scores(-there["test_neg_nrmse"], -mean["test_neg_nrmse"])
    plt.show()


# Dask's workers import this file; only the first process shall run it.
if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--subjects", type=int, default=10)
    parser.add_argument("--trials", type=int, default=20, help="of each subject")
    parser.add_argument("--epochs", type=int, default=8)
    main(parser.parse_args())
