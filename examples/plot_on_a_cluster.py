"""
On a Dask cluster that loses a worker
=====================================

Cross-validate on a cluster, and get the same scores when a worker dies.

``cross_validate`` and ``GridSearchCV`` run on a cluster as they are, with
joblib's Dask backend. Here the cluster is two worker processes on this
machine. One of them is killed during the run, and the scores are the same
bit for bit. Needs ``pip install ".[distributed]"`` in the project's
folder, and Linux or macOS.
"""

import os
import signal
import threading
import time

import numpy as np
from distributed import Client
from distributed.deploy.subprocess import SubprocessCluster
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    cross_validate,
)

from braindecode_sam import SCORING, make_regressor
from braindecode_sam.datasets import simulate_response_times, to_arrays
from braindecode_sam.model_selection import on_dask

N_SUBJECTS = 10
N_TRIALS = 20
N_EPOCHS = 5
LEARNING_RATES = [0.001, 0.002]

# %%
# The data and the net
# --------------------
# ``random_state`` gives every fold the same seed, for its initial weights,
# shuffling, augmentation and dropout. The last bits of a sum over threads
# depend on their number, so that is set as well: one thread for each.

epochs = simulate_response_times(
    N_SUBJECTS, N_TRIALS, n_chans=24, n_times=250, random_state=0
)
X, y, subjects = to_arrays(epochs, target="response_time")
y = (y - y.mean()) / y.std()
net = make_regressor(
    "challenge_1", device="cpu", max_epochs=N_EPOCHS, verbose=0,
    module__n_chans=24, module__n_times=250,
    random_state=0, n_threads=1,
)  # fmt: skip
splits = list(GroupKFold(5).split(X, y, subjects))

# %%
# In this process
# ---------------

folds = {"cv": splits, "scoring": SCORING, "error_score": "raise"}
start = time.perf_counter()
here = cross_validate(net, X, y, **folds)
seconds = time.perf_counter() - start
print(f"one process: {len(here['test_r2'])} folds")

# %%
# On the cluster
# --------------
# On your own cluster, ``Client("tcp://scheduler:8786")`` is all. Dask's
# nannies restart a killed worker. ``on_dask`` sends the data to every
# worker once, so that they are not lost with one.

cluster = SubprocessCluster(
    n_workers=2, threads_per_worker=1, host="127.0.0.1",
    worker_kwargs={"dashboard": False},
    scheduler_kwargs={"dashboard_address": ":0"},
)  # fmt: skip
client = Client(cluster)
client.wait_for_workers(2)
first, second = client.run(os.getpid).values()


def kill_a_worker():
    """Kill a worker's process while the folds run."""
    print("killing a worker", flush=True)
    os.kill(first, signal.SIGKILL)


threading.Timer(0.3 * seconds, kill_a_worker).start()
with on_dask(X, y, splits):
    there = cross_validate(net, X, y, **folds)
for name in SCORING:
    is_same = np.array_equal(here[f"test_{name}"], there[f"test_{name}"])
    print(f"{name}: {'the same bit for bit' if is_same else 'DIFFERENT'}")

# %%
# A grid search
# -------------
# The candidates share folds and seed.

search = GridSearchCV(
    net,
    {"lr": LEARNING_RATES},
    cv=splits,
    scoring="r2",
    refit=False,
)
with on_dask(X, y, splits):
    search.fit(X, y)
client.close()
cluster.close()
scores = [search.cv_results_[f"split{i}_test_score"] for i in range(5)]
for lr, by_fold in zip(LEARNING_RATES, np.transpose(scores), strict=True):
    print(f"lr {lr}: R2 of the folds {by_fold.round(2)}")
