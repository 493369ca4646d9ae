"""Folds in several processes, on a cluster, and one net in two processes."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_validate

from braindecode_sam import SCORING
from braindecode_sam.callbacks import SeedCallback
from braindecode_sam.callbacks._generators import generator_states
from braindecode_sam.comparison import compare
from braindecode_sam.model_selection import on_dask
from tests.optim.helpers import assert_same
from tests.worker_parts import SUBJECTS, CountedWindows, X, Y, make_net, noted

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
SPLITS = list(GroupKFold(5).split(X, Y, SUBJECTS))


def cross_validated(net, windows=X, **options):
    return cross_validate(
        net, windows, Y, cv=SPLITS, scoring=SCORING, error_score="raise", **options
    )


@pytest.fixture(scope="module")
def alone():
    """Scores of one process."""
    return cross_validated(make_net())


def assert_same_scores(first, second):
    for name in SCORING:
        np.testing.assert_array_equal(first[f"test_{name}"], second[f"test_{name}"])


# Seeds


def test_a_seed_covers_all_that_is_drawn(alone):
    np.random.seed(7)
    torch.manual_seed(7)
    assert_same_scores(cross_validated(make_net()), alone)
    other = cross_validated(make_net().set_params(callbacks__seed__random_state=4))
    assert (other["test_neg_nrmse"] != alone["test_neg_nrmse"]).all()


@pytest.mark.parametrize("n_jobs", [2, 3])
def test_scores_are_the_same_in_loky_workers(alone, n_jobs, tmp_path, tried):
    file = tmp_path / "trainings"
    assert_same_scores(cross_validated(make_net(file), n_jobs=n_jobs), alone)
    assert len(noted(file)) == 5
    assert len(set(noted(file))) > 1
    tried["folds in loky workers"] += 5


def test_generators_go_on_from_where_they_were():
    before = generator_states()
    make_net(max_epochs=1).fit(X[:16], Y[:16])
    after = generator_states()
    assert torch.equal(before["torch"], after["torch"])
    assert torch.equal(before["numpy"][1], after["numpy"][1])
    assert before["python"] == after["python"]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"random_state": -1}, ValueError, "random_state must be .*>= 0 .*, got -1"),
        ({"random_state": 2**32}, ValueError, "<= 4294967295, got 4294967296"),
        ({"random_state": None}, TypeError, "random_state must be .*, got None"),
        ({"random_state": 0.5}, TypeError, "random_state must be .*, got 0.5"),
        ({"n_threads": 0}, ValueError, "n_threads must be an integer >= 1, got 0"),
        ({"n_threads": "all"}, TypeError, "n_threads must be .*, got 'all'"),
    ],
)
def test_seed_refuses(options, error, message):
    with pytest.raises(error, match=message):
        SeedCallback(**options).initialize()


# Threads


def still_net():
    """With a learning rate of 0, only buffers change; nothing is drawn."""
    return make_net(
        lr=0.0, callbacks=[("seed", SeedCallback(3, n_threads=1))],
        iterator_train__transforms=[], iterator_train__shuffle=False,
        module__drop_prob=0.0, optimizer__weight_decay=0.0, optimizer__rho=5.0,
    )  # fmt: skip


def test_statistics_of_nets_in_two_threads_do_not_mix():
    def statistics(**options):
        fitted = cross_validated(still_net(), return_estimator=True, **options)
        return [dict(net.module_.named_buffers()) for net in fitted["estimator"]]

    one_by_one = statistics()
    with joblib.parallel_config("threading", n_jobs=3):
        together = statistics()
    for first, second in zip(one_by_one, together, strict=True):
        for name in first:  # first weights are drawn from a generator that all share
            if "num_batches_tracked" in name:
                assert torch.equal(first[name], second[name]), name
        assert all(buffer.isfinite().all() for buffer in second.values())


def test_nets_in_three_threads_train_as_one_by_one():
    states = []
    for are_together in (False, True):
        nets = [still_net().set_params(lr=1e-3) for _ in range(3)]
        for net in nets:  # partial_fit draws nothing that a thread could take away
            net.fit(X[:8], Y[:8])
        threads = [
            threading.Thread(target=net.partial_fit, args=(X[i::3], Y[i::3, None]))
            for i, net in enumerate(nets)
        ]
        for thread in threads:
            thread.start()
            if not are_together:
                thread.join()
        for thread in threads:
            thread.join()
        states.append([net.module_.state_dict() for net in nets])
    for one_by_one, together in zip(*states, strict=True):
        assert_same(one_by_one, together)


# A Dask cluster


def spawned(*arguments):
    return subprocess.Popen([sys.executable, "-m", *map(str, arguments)], cwd=ROOT)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Scheduler and two workers in separate processes, connected by TCP."""
    distributed = pytest.importorskip(
        "distributed", reason="the extra distributed is not installed"
    )
    file = tmp_path_factory.mktemp("dask") / "scheduler.json"
    processes = [
        spawned(
            "distributed.cli.dask_scheduler", "--scheduler-file", file,
            "--host", "tcp://127.0.0.1", "--port", 0, "--no-dashboard",
        )
    ]  # fmt: skip
    for _ in range(2):
        # During imports, which take seconds, a worker seems dead and data are sent
        # again.
        options = ["--scheduler-file", file, "--preload", "tests.worker_parts"]
        options += ["--nthreads", 1, "--no-nanny"]
        processes.append(
            spawned("distributed.cli.dask_worker", *options, "--no-dashboard")
        )
    try:
        with distributed.Client(scheduler_file=str(file), timeout=60) as client:
            client.wait_for_workers(2, timeout=60)
            yield client
    finally:
        for process in processes:
            process.kill()
            process.wait()


@pytest.mark.slow
def test_grid_search_on_dask(cluster):
    grid = {"optimizer__rho": [0.0, 0.2], "max_epochs": [1]}
    found = []
    for is_on_cluster in (False, True):
        search = GridSearchCV(make_net(), grid, cv=SPLITS, scoring=SCORING, refit="r2")
        if is_on_cluster:
            with on_dask(X, Y, SPLITS):
                search.fit(X, Y)
        else:
            search.fit(X, Y)
        found.append(search)
    assert found[0].best_params_ == found[1].best_params_
    for name in ("mean_test_neg_nrmse", "std_test_r2"):
        first, second = (search.cv_results_[name] for search in found)
        np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(*(search.predict(X[:8]) for search in found))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:no better than the dummy")
def test_comparisons_are_the_same_on_dask(cluster, tmp_path):
    options = {"cv": SPLITS, "n_seeds": 1, "by_epoch": True, "verbose": 0}
    nets = {"net": make_net()}
    alone = compare(nets, X, Y, SUBJECTS, **options)
    arrivals = tmp_path / "arrivals"
    windows = CountedWindows(X, SUBJECTS, arrivals)
    with on_dask(windows, Y, SPLITS):
        found = compare(nets, windows, Y, SUBJECTS, folder=tmp_path / "f", **options)
    np.testing.assert_array_equal(found.y_pred["net"], alone.y_pred["net"])
    np.testing.assert_array_equal(
        found.y_pred_by_epoch["net"], alone.y_pred_by_epoch["net"]
    )
    elsewhere = [pid for pid in noted(arrivals) if pid != str(os.getpid())]
    assert len(elsewhere) < 5  # to each worker once, not with every fit


@pytest.mark.slow
def test_scores_are_the_same_on_dask_though_a_worker_dies(
    cluster, alone, tmp_path, tried
):
    arrivals, trainings = tmp_path / "arrivals", tmp_path / "trainings"
    windows = CountedWindows(X, SUBJECTS, arrivals)
    with on_dask(windows, Y, SPLITS):
        assert_same_scores(cross_validated(make_net(trainings), windows), alone)
    # To each worker once (twice where Dask took one for slow), not once for every fold.
    elsewhere = [pid for pid in noted(arrivals) if pid != str(os.getpid())]
    assert len(set(elsewhere)) == 2
    assert len(elsewhere) < 5
    assert len(noted(trainings)) == 5

    def kill_who_begins_the_third():
        while len(noted(trainings)) < 5 + 3:
            time.sleep(0.01)
        os.kill(int(noted(trainings)[-1]), signal.SIGKILL)

    murder = threading.Thread(target=kill_who_begins_the_third)
    murder.start()
    with on_dask(windows, Y, SPLITS):
        assert_same_scores(cross_validated(make_net(trainings), windows), alone)
    murder.join()
    assert len(cluster.ncores()) == 1
    assert cluster.amm.running()
    assert len(noted(trainings)) > 5 + 5  # the one that was cut off ran again
    tried["folds on Dask workers"] += 10
    tried["Dask workers killed"] += 1


def test_on_dask_needs_the_splits_themselves():
    with (
        pytest.raises(TypeError, match=r"list\(cv.split\(X, y, groups\)\), got Group"),
        on_dask(X, Y, GroupKFold(5)),
    ):
        pass
