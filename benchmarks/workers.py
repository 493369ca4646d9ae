"""Time a cross-validation in parallel, by the number of workers.

``cross_validate`` trains the configuration of Challenge 1 with FastEEGNeX and SAM, with
fewer epochs and subjects, in five folds of subjects. It runs in this process, in loky
workers of joblib and in Dask workers that use TCP. The workers share the cores equally.
The start-up of loky's workers is included in the time, that of Dask's is not. Times are
medians of interleaved runs. Runs with the same number of threads must have equal
scores, bit for bit.
"""

import argparse
import contextlib
import itertools
import os

import numpy as np
from _report import add_common_arguments, interleaved_medians, print_with_machine
from joblib import parallel_config
from sklearn.model_selection import GroupKFold, cross_validate

from braindecode_sam import SCORING, make_regressor
from braindecode_sam.datasets import simulate_response_times, to_arrays
from braindecode_sam.model_selection import on_dask


def make_run(backend, n_threads, max_epochs, data, scores):
    """Build a function that cross-validates in the context of a backend."""
    X, y, splits = data
    net = make_regressor(
        "challenge_1", device="cpu", max_epochs=max_epochs, verbose=0,
        random_state=0, n_threads=n_threads,
    )  # fmt: skip

    def run():
        with backend():
            found = cross_validate(
                net, X, y, cv=splits, scoring=SCORING, error_score="raise"
            )["test_neg_nrmse"]
        expected = scores.setdefault((n_threads, max_epochs), found)
        if not np.array_equal(found, expected):
            raise AssertionError(f"scores differ: {found} and {expected}")

    return run


def make_backends(n_workers, data, stack):
    """Yield the name and the context of each backend."""
    from distributed import Client, LocalCluster

    if n_workers == 1:
        yield "this process", contextlib.nullcontext
    yield "loky", lambda: parallel_config("loky", n_jobs=n_workers)
    cluster = stack.enter_context(
        LocalCluster(
            n_workers=n_workers, threads_per_worker=1, host="127.0.0.1",
            protocol="tcp://", dashboard_address=None,
        )
    )  # fmt: skip
    client = stack.enter_context(Client(cluster, set_as_default=False))
    yield "Dask", lambda: on_dask(*data, client=client)


def main():
    """Print a table."""
    parser = add_common_arguments(argparse.ArgumentParser(description=__doc__))
    parser.set_defaults(repeats=3)
    parser.add_argument("--workers", nargs="+", type=int, default=[1, 2, 4])
    parser.add_argument("--cores", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--subjects", type=int, default=10)
    parser.add_argument("--trials", type=int, default=32, help="trials per subject")
    parser.add_argument("--epochs", type=int, default=4)
    args = parser.parse_args()
    epochs = simulate_response_times(args.subjects, args.trials, random_state=0)
    X, y, subjects = to_arrays(epochs, target="response_time")
    data = X, y, list(GroupKFold(5).split(X, y, subjects))
    runs, scores = {}, {}
    with contextlib.ExitStack() as stack:
        for n_workers in args.workers:
            backends = dict(make_backends(n_workers, data, stack))
            shares = [max(args.cores // n_workers, 1)]
            for (name, backend), n_threads in itertools.product(
                backends.items(), shares
            ):
                key = name, n_workers, n_threads
                runs[key] = make_run(backend, n_threads, args.epochs, data, scores)
        times = interleaved_medians(runs, args.repeats)
    first = next(iter(times.values()))
    rows = [
        {
            "where": name,
            "workers": n_workers,
            "threads each": n_threads,
            "seconds": ms / 1e3,
            "speed-up": first / ms,
        }
        for (name, n_workers, n_threads), ms in times.items()
    ]
    print_with_machine(rows, args.csv)


if __name__ == "__main__":
    main()
