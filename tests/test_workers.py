"""Folds in threads, in several processes and on a cluster."""

import os
import threading

import numpy as np
import pytest
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_validate

from braindecode_sam import SCORING
from braindecode_sam.callbacks import WeightAveraging
from braindecode_sam.comparison import compare
from braindecode_sam.model_selection import on_dask
from tests import worker_parts
from tests.optim.helpers import assert_same
from tests.worker_parts import (
    SUBJECTS,
    CountedWindows,
    Doomed,
    Noted,
    X,
    Y,
    augmentation,
    make_net,
    noted,
)

SPLITS = list(GroupKFold(3).split(X, Y, SUBJECTS))


def fold_net(*callbacks, module="FastEEGNet", **options):
    return make_net(*callbacks, module=module, **(augmentation() | options))


def cross_validated(net, windows=X, **options):
    return cross_validate(
        net, windows, Y, cv=SPLITS, scoring=SCORING, error_score="raise", **options
    )


@pytest.fixture(scope="module")
def alone():
    """Scores of one process."""
    return cross_validated(fold_net())


def assert_same_scores(first, second):
    for name in SCORING:
        np.testing.assert_array_equal(first[f"test_{name}"], second[f"test_{name}"])


def test_scores_and_nets_are_the_same_in_loky_workers(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONWARNINGS", "ignore")  # of the packages they import
    file, found = tmp_path / "trainings", []
    for n_jobs in (1, 2):
        averaging = ("averaging", WeightAveraging("ema", 0.7))
        callbacks = [("noted", Noted(file)), averaging]
        net = fold_net(*callbacks, module="FastEEGNeX", max_epochs=1)
        found.append(cross_validated(net, n_jobs=n_jobs, return_estimator=True))
    assert_same_scores(*found)
    here = str(os.getpid())
    are_here = [process == here for process in noted(file)]
    assert are_here == [True, True, True, False, False, False]
    for first, second in zip(*(f["estimator"] for f in found), strict=True):
        assert_same(first.module_.state_dict(), second.module_.state_dict())
        np.testing.assert_array_equal(first.predict(X), second.predict(X))


def test_nets_in_three_threads_train_as_one_by_one():
    """This includes the statistics of BatchNorm, which SAM's second pass restores."""
    states = []
    for are_together in (False, True):
        # Nothing is drawn that another thread could take away.
        nets = [
            make_net(module="FastEEGNet", module__drop_prob=0.0, lr=1e-3, max_epochs=1,
                     iterator_train__shuffle=False, batch_size=4)
            for _ in range(3)
        ]  # fmt: skip
        for net in nets:
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


@pytest.fixture(
    scope="module",
    params=["in this process", pytest.param("processes", marks=pytest.mark.full)],
)
def cluster(request):
    """A cluster whose workers get all data by TCP, with its client."""
    import distributed  # starts threads

    is_apart = request.param == "processes"
    with (
        distributed.LocalCluster(
            # In one process, two workers would share the generators.
            n_workers=2 if is_apart else 1, threads_per_worker=1, processes=is_apart,
            protocol="tcp", host="127.0.0.1", dashboard_address=":0",
        ) as cluster,
        distributed.Client(cluster) as client,
    ):  # fmt: skip
        # During imports, which take seconds, a worker seems dead and data are sent
        # again.
        client.run(worker_parts.noted, os.devnull)
        yield client


def test_scores_are_the_same_on_dask(cluster, alone, tmp_path):
    windows = CountedWindows(X, SUBJECTS, tmp_path / "arrivals")
    assert cluster.amm.running()
    with on_dask(windows, Y, SPLITS):
        assert_same_scores(cross_validated(fold_net(), windows), alone)
    assert cluster.amm.running()
    # To each worker once (twice where Dask took one for slow), not with every fold.
    n_workers = len(cluster.ncores())
    assert n_workers <= len(noted(windows.file)) < n_workers + len(SPLITS) - 1


@pytest.mark.filterwarnings("ignore:no better than the dummy")
def test_comparisons_are_the_same_on_dask(cluster, tmp_path):
    options = {"cv": SPLITS, "n_seeds": 1, "by_epoch": True, "verbose": 0}
    nets = {"net": fold_net()}
    alone = compare(nets, X, Y, SUBJECTS, **options)
    with on_dask(X, Y, SPLITS):
        found = compare(nets, X, Y, SUBJECTS, folder=tmp_path / "f", **options)
    np.testing.assert_array_equal(found.y_pred["net"], alone.y_pred["net"])
    np.testing.assert_array_equal(
        found.y_pred_by_epoch["net"], alone.y_pred_by_epoch["net"]
    )


@pytest.mark.full
def test_grid_search_on_dask(cluster):
    grid = {"optimizer__rho": [0.0, 0.2], "max_epochs": [1]}
    found = [
        GridSearchCV(fold_net(), grid, cv=SPLITS, scoring=SCORING, refit="r2")
        for _ in range(2)
    ]
    found[0].fit(X, Y)
    with on_dask(X, Y, SPLITS):
        found[1].fit(X, Y)
    assert found[0].best_params_ == found[1].best_params_
    for name in ("mean_test_neg_nrmse", "std_test_r2"):
        np.testing.assert_array_equal(*(s.cv_results_[name] for s in found))
    np.testing.assert_array_equal(*(search.predict(X[:8]) for search in found))


@pytest.mark.full
@pytest.mark.parametrize("cluster", ["processes"], indirect=True)
def test_folds_of_a_dask_worker_that_dies_run_again(cluster, alone, tmp_path):
    net = fold_net(("doomed", Doomed(tmp_path / "trainings")))
    with on_dask(X, Y, SPLITS):
        assert_same_scores(cross_validated(net), alone)
    assert len(noted(tmp_path / "trainings")) > len(SPLITS)
    assert cluster.amm.running()


def test_on_dask_needs_the_splits_themselves():
    with (
        pytest.raises(TypeError, match=r"list\(cv.split\(X, y, groups\)\), got Group"),
        on_dask(X, Y, GroupKFold(5)),
    ):
        pass
