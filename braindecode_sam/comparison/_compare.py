"""Compare estimators in one call."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from numbers import Integral
from typing import Any

import joblib
import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, is_classifier, is_regressor
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.metrics import check_scoring, get_scorer
from sklearn.model_selection import GroupKFold, check_cv
from sklearn.utils import column_or_1d
from skorch.callbacks import LoadInitState

from braindecode_sam._arguments import check_choice, check_integer
from braindecode_sam._checks import (
    as_numbers,
    check_disjoint,
    check_groups,
    check_same_length,
    check_targets,
    check_targets_or_labels,
)
from braindecode_sam._fingerprint import callbacks_given, contents_of
from braindecode_sam.callbacks import ResumableCheckpoint
from braindecode_sam.comparison import _fits
from braindecode_sam.comparison._comparison import Comparison, stored
from braindecode_sam.comparison._page import no_better_than_dummy
from braindecode_sam.comparison._statistics import (
    ALPHA,
    Floats,
    Loss,
    check_subjects,
    smallest_p_value,
    window_losses,
)
from braindecode_sam.metrics import SCORING, SCORING_CLASSIFICATION
from braindecode_sam.model_selection import subjects_of

DUMMY = "dummy"
RESERVED = {  # columns of the tables
    "loss", "loss_low", "loss_high", "cpu_seconds", "n_epochs", "n_params", "estimator",
    "seed", "pooled", "fold", "subject",
}  # fmt: skip


def compare(
    estimators: Mapping[str, BaseEstimator],
    X: Any,
    y: ArrayLike,
    groups: ArrayLike,
    *,
    cv: Any = None,
    n_seeds: int = 5,
    scoring: Any = None,
    loss: Loss | None = None,
    by_epoch: bool = False,
    folder: str | os.PathLike[str] | None = None,
    n_jobs: int | None = None,
    params: Mapping[str, Mapping[str, Any]] | None = None,
    random_state: int = 0,
    verbose: int = 10,
) -> Comparison:
    """Fit estimators on the same folds and seeds, and compare them by subject.

    Parameters
    ----------
    estimators : dict of str to estimator
        Nets, pipelines or other estimators of scikit-learn, all regressors or all
        classifiers. The first is the reference, with which the others are compared. If
        none is a dummy predictor of the mean or of the class frequencies, one is added
        under the name "dummy".
    X : array-like of shape (n_windows, n_chans, n_times)
        EEG. Pass :class:`~braindecode_sam.datasets.SubjectWindows` if an estimator
        needs the subjects.
    y : array-like of shape (n_windows,) or (n_windows, n_outputs)
        Targets of one or more outputs, or a label of any kind for each window.
    groups : array-like of shape (n_windows,)
        Subject of each window. Subjects are the unit of all statistics.
    cv : int, splitter or iterable of splits, optional
        Folds, by default ``GroupKFold(5)``, with fewer folds if there are fewer
        subjects. An integer is the number of folds of a ``GroupKFold``. No window may
        be in several test folds.
    n_seeds : int, default=5
        Number of fits of each estimator on each fold. Each fit sets every
        ``random_state`` of the estimator, seeds the global generators of torch, NumPy
        and Python and those in augmentations, and lets torch use one thread unless a
        net sets ``n_threads``. Predictions are then the same in this process and in
        workers. Estimators with neither a net nor a ``random_state`` are fitted once.
    scoring : str, list, dict, optional
        Scorers as in ``cross_validate``, by default
        :data:`~braindecode_sam.metrics.SCORING` or
        :data:`~braindecode_sam.metrics.SCORING_CLASSIFICATION`. They receive an
        estimator that returns the stored predictions, and the indices of windows as X.
    loss : str or callable, optional
        Loss by which subjects are compared; see :func:`paired_comparison`.
    by_epoch : bool, default=False
        Whether to also predict the test fold with the weights of every epoch, for
        estimators with a single net. Training does not depend on it.
    folder : path-like, optional
        Folder in which to store finished fits, in JSON and NumPy files that execute
        nothing when they are read. A second call continues after the last finished fit,
        even if the first was killed, and may add estimators and seeds. A
        ``FrozenEstimator`` cannot be stored. Other data, other parameters and other
        versions of braindecode_sam, braindecode, skorch, scikit-learn, torch and NumPy
        are refused. Changed code is not noticed: functions and classes are compared by
        their names, so that one lambda is taken for another, and other objects by their
        public attributes. Use another folder after a change of code.
    n_jobs : int, optional
        Number of fits that run in parallel on joblib's current backend: processes of
        loky or, inside :func:`~braindecode_sam.model_selection.on_dask`, a cluster.
    params : dict of str to dict, optional
        Parameters of ``fit`` by the name of the estimator, passed as ``params`` to
        ``cross_validate``. For example, ``{"ridge": {"groups": groups}}``.
    random_state : int, default=0
        First seed. The others are consecutive.
    verbose : int, default=10
        As in ``joblib.Parallel``, which reports finished fits and the elapsed time on
        standard error. 0 reports nothing, and more than 10 every fit. Nets print
        according to their own ``verbose``.

    Returns
    -------
    comparison : Comparison
        Scores, paired differences, figures and a report.

    Raises
    ------
    TypeError, ValueError
        If an argument is invalid, windows are in several test folds, or fits would
        share a file, as with skorch's ``Checkpoint(load_best=True)``, or the random
        numbers of several threads, as with joblib's threading backend. Also if `folder`
        belongs to other data, settings or versions; it is not modified.

    Warns
    -----
    UserWarning
        If a fold trains and tests on the same subject, an estimator is no better than
        the dummy predictor, there are too few subjects for a corrected p-value below
        0.05, predictions are not finite, or the subjects that `X` carries are not those
        of `groups`, nor parts or unions of them.

    See Also
    --------
    paired_comparison : Compare existing predictions.
    Comparison : The result.

    Notes
    -----
    The p-values are corrected for multiple comparisons by Holm's method [1]_. See
    :func:`paired_comparison` for the test.

    References
    ----------
    .. [1] Holm (1979). A simple sequentially rejective multiple test procedure.
       Scandinavian Journal of Statistics, 6(2), 65-70.
       https://www.jstor.org/stable/4615733

    Examples
    --------
    >>> import numpy as np
    >>> from braindecode_sam.comparison import compare
    >>> from sklearn.linear_model import Ridge
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import FunctionTransformer
    >>> rng = np.random.default_rng(0)
    >>> X, groups = rng.normal(size=(80, 4, 10)), np.repeat(np.arange(8), 10)
    >>> y = X[:, 0].mean(axis=1)
    >>> flat = FunctionTransformer(lambda X: X.reshape(len(X), -1))
    >>> result = compare(
    ...     {"ridge": make_pipeline(flat, Ridge()),
    ...      "strong ridge": make_pipeline(flat, Ridge(1000))},
    ...     X, y, groups, cv=4, verbose=0)
    >>> result.to_frame()["loss"].round(2).to_dict()
    {'ridge': 0.0, 'strong ridge': 0.9, 'dummy': 1.01}
    >>> result.comparisons()["n_better"].to_dict()
    {'strong ridge': 0, 'dummy': 0}
    """
    if hasattr(X, "get_data"):
        raise TypeError(
            f"X must not be mne.Epochs, which hold volts, got {X!r}; X, y, groups ="
            " braindecode_sam.datasets.to_arrays(epochs, target=...) converts them"
        )
    if isinstance(X, torch.utils.data.Dataset):
        raise TypeError(
            f"X must be an array, got {type(X).__name__}; X, y, groups ="
            " braindecode_sam.datasets.to_arrays(windows) converts a windows dataset"
        )
    groups = check_groups(groups)
    check_same_length(X=X, y=y, groups=groups)
    check_integer("n_seeds", n_seeds, 1)
    check_integer("random_state", random_state, 0, 2**32 - 1 - n_seeds)
    params = params or {}
    for name in params:
        check_choice("params", name, list(estimators))
    estimators, classifies = _with_dummy(estimators)
    _check_nets(estimators, by_epoch, n_jobs)
    if classifies:
        # As objects, which keep text and numbers apart.
        y = check_targets_or_labels(column_or_1d(np.asarray(y, dtype=object)))
    else:
        y = as_numbers("y", check_targets(y))
    classes = np.unique(y) if classifies else None
    if not hasattr(X, "shape") or hasattr(X, "iloc"):  # a list, or a table
        X = np.asarray(X)
    subjects_of_X = subjects_of(X) if hasattr(X, "groups") else groups
    _warn_of_other_subjects(subjects_of_X, groups)
    splits = _splits(cv, X, y, groups)
    scorers = _scorers(scoring, classifies)
    _try_scores(y, classes, loss, scorers)
    settings = {name: _fits.settings_of(e) for name, e in estimators.items()}
    for name, given in params.items():
        settings[name]["params"] = joblib.hash(given)
    store = None
    if folder is not None:
        for name, estimator in estimators.items():
            if _fits.has_frozen(estimator):
                raise ValueError(
                    "folder cannot tell what a FrozenEstimator has learned, and"
                    f" {name!r} holds one; compare it without a folder"
                )
        data = {"X": X, "y": y, "groups": groups}
        if not np.array_equal(subjects_of_X, groups):
            data["groups of X"] = subjects_of_X
        digests = {name: contents_of(values) for name, values in data.items()}
        digests["folds"] = joblib.hash([[a.tolist(), b.tolist()] for a, b in splits])
        store = _fits.Folder(folder, digests, settings)
    fits = [
        _fits.Fit(seed, fold, name)
        for name, estimator in estimators.items()
        for seed in range(random_state, random_state + n_seeds)
        if seed == random_state or _fits.has_randomness(estimator)
        for fold in range(len(splits))
    ]
    results = _fits.run(
        fits, estimators, X, y, splits, classes=classes, params=params,
        by_epoch=by_epoch, folder=store, n_jobs=n_jobs, verbose=verbose,
    )  # fmt: skip
    folds = [test for _, test in splits]
    y_pred, y_pred_by_epoch = {}, {}
    for name, estimator in estimators.items():
        mine = {fit: r for fit, r in sorted(results.items()) if fit.estimator == name}
        last = {fit: result["y_pred"][None] for fit, result in mine.items()}
        y_pred[name] = _join(last, folds, len(y))[:, 0]
        if by_epoch and _fits.nets_in(estimator):
            curves = {fit: result["by_epoch"] for fit, result in mine.items()}
            y_pred_by_epoch[name] = _join(curves, folds, len(y))
    comparison = Comparison(
        y=y,
        groups=groups,
        folds=folds,
        y_pred=y_pred,
        y_pred_by_epoch=y_pred_by_epoch,
        fits=_fits.table_of(results),
        settings=settings,
        classes=classes,
        scoring=scorers,
        loss=loss,
        dummy=next(name for name, e in estimators.items() if _is_dummy(e)),
    )
    _warn_of_weak_results(comparison)
    return comparison


def _is_dummy(estimator: BaseEstimator) -> bool:
    """Return whether an estimator predicts the mean or the class frequencies."""
    is_dummy = isinstance(estimator, (DummyClassifier, DummyRegressor))
    return is_dummy and estimator.strategy in ("mean", "prior")


def _with_dummy(
    estimators: Mapping[str, BaseEstimator],
) -> tuple[dict[str, BaseEstimator], bool]:
    """Add a dummy predictor if there is none, and tell whether all classify."""
    if not estimators:
        raise ValueError("estimators must hold at least one, got {}")
    for name in estimators:
        if not isinstance(name, str):
            raise TypeError(f"names of estimators must be text, got {name!r}")
    classifies = all(map(is_classifier, estimators.values()))
    if not classifies and not all(map(is_regressor, estimators.values())):
        kinds = {name: type(e).__name__ for name, e in estimators.items()}
        raise ValueError(
            "estimators must be all regressors or all classifiers of scikit-learn, got"
            f" {kinds}"
        )
    if not any(map(_is_dummy, estimators.values())):
        if DUMMY in estimators:
            raise ValueError(
                f"the name {DUMMY!r} is reserved for the dummy predictor, got"
                f" {estimators[DUMMY]!r}; use another name"
            )
        dummy = DummyClassifier() if classifies else DummyRegressor()
        estimators = {**estimators, DUMMY: dummy}
    if _is_dummy(next(iter(estimators.values()))):
        raise ValueError(
            "the first estimator is the reference and must not be a dummy predictor,"
            f" got {list(estimators)}"
        )
    return dict(estimators), classifies


def _check_nets(
    estimators: Mapping[str, BaseEstimator], by_epoch: bool, n_jobs: int | None
) -> None:
    """Raise for nets whose fits would depend on one another."""
    for name, estimator in estimators.items():
        for net in _fits.nets_in(estimator):
            if by_epoch and isinstance(net.callbacks, str):
                raise ValueError(
                    f"by_epoch needs nets whose callbacks are a list or None, but"
                    f" {name!r} has {net.callbacks!r}"
                )
            for callback in callbacks_given(net.callbacks):
                loads = getattr(callback, "load_best", False)
                has_files = hasattr(callback, "dirname")
                shares_file = (LoadInitState, ResumableCheckpoint)
                if (loads and has_files) or isinstance(callback, shares_file):
                    raise ValueError(
                        f"{name!r} must not have the callback"
                        f" {type(callback).__name__}, whose file all fits would share;"
                        " use EarlyStopping(load_best=True), which keeps weights in"
                        " memory, and compare(folder=...) to continue"
                    )
            if isinstance(net.module, torch.nn.Module):
                warnings.warn(
                    f"the module of {name!r} is an instance, so all seeds have the same"
                    " initial weights; pass the class and its parameters",
                    stacklevel=3,
                )
    backend, _ = joblib.parallel.get_active_backend()
    shares = isinstance(backend, joblib.parallel.ThreadingBackend)
    if shares and joblib.effective_n_jobs(n_jobs) > 1:
        raise ValueError(
            "fits in threads would share random number generators; expected n_jobs=1 or"
            " a backend of processes such as loky, got joblib's threading"
        )


def _warn_of_other_subjects(of_X: NDArray[Any], groups: NDArray[Any]) -> None:
    """Warn if neither subjects of X lie within groups, nor groups within subjects."""
    names, index = np.unique(of_X, return_inverse=True)
    others, other = np.unique(groups, return_inverse=True)
    n_pairs = len(set(zip(index.tolist(), other.tolist(), strict=True)))
    if n_pairs > max(len(names), len(others)):
        warnings.warn(
            f"the {len(names)} subjects in X and the {len(others)} in groups overlap in"
            " part, so estimators that read the subjects of X do not train and test on"
            " the people of groups; expected SubjectWindows(X, groups)",
            stacklevel=3,
        )


def _splits(cv: Any, X: Any, y: Any, groups: NDArray[Any]) -> list[Any]:
    """Return the training and test rows of each fold as indices."""
    if cv is None or isinstance(cv, Integral):
        n_folds = min(5, len(np.unique(groups))) if cv is None else int(cv)
        cv = GroupKFold(n_folds)
    rows = np.arange(len(y))  # of which masks and negative indices choose
    pairs = check_cv(cv).split(X, y, groups)
    splits = [(rows[train], rows[test]) for train, test in pairs]
    tests = [test for _, test in splits]
    check_disjoint(tests)
    check_subjects(np.unique(groups[np.concatenate(tests)]))
    for i, (train, test) in enumerate(splits):
        shared = np.intersect1d(groups[train], groups[test])
        if len(shared):
            warnings.warn(
                f"fold {i + 1} trains and tests on {len(shared)} of the same subjects,"
                f" such as {shared.tolist()[0]!r}, so its scores do not show how well"
                " estimators generalize to new subjects; use GroupKFold",
                stacklevel=3,
            )
            break
    return splits


def _scorers(scoring: Any, classifies: bool) -> dict[str, Any]:
    if scoring is None:
        scoring = SCORING_CLASSIFICATION if classifies else SCORING
    check_scoring(DummyRegressor(), scoring=scoring)  # of which any estimator serves
    if callable(scoring):
        scoring = {"score": scoring}
    elif not isinstance(scoring, Mapping):
        names = [scoring] if isinstance(scoring, str) else scoring
        scoring = dict(zip(names, names, strict=True))
    return {name: get_scorer(scorer) for name, scorer in scoring.items()}


def _try_scores(
    y: NDArray[Any], classes: NDArray[Any] | None, loss: Loss | None, scorers: Any
) -> None:
    """Call the loss and the scorers once, before any training."""
    if classes is None:
        columns = y.reshape(len(y), -1)
        y_pred = np.broadcast_to(columns.mean(axis=0), columns.shape)
    else:
        y_pred = np.full((len(y), len(classes)), 1 / len(classes))
    window_losses(y, y_pred[None], np.ones(len(y), dtype=bool), loss)
    for name, scorer in scorers.items():
        if name in RESERVED or name.endswith(("_sd", "_folds", "_subjects")):
            raise ValueError(
                f"scoring must not name a scorer {name!r}, which is reserved for a"
                " column of the tables; use another name"
            )
        try:
            float(scorer(stored(y_pred, classes), np.arange(len(y)), y))
        except Exception as error:
            error.add_note(f"Raised by the scorer {name!r}.")
            raise


def _join(
    predicted: Mapping[_fits.Fit, Floats], folds: list[Any], n_windows: int
) -> Floats:
    """Join the predictions of folds, for the epochs that all fits have.

    The fits of an estimator have predictions of shape (n_epochs, n_test, n_columns).
    The result has the shape (n_seeds, n_epochs, n_windows, n_columns) and is nan for
    windows in no test fold.
    """
    seeds = sorted({fit.seed for fit in predicted})
    n_epochs = min(map(len, predicted.values()))
    n_columns = next(iter(predicted.values())).shape[-1]
    y_pred = np.full((len(seeds), n_epochs, n_windows, n_columns), np.nan)
    for fit, found in predicted.items():
        y_pred[seeds.index(fit.seed)][:, folds[fit.fold]] = found[:n_epochs]
        n_wrong = int((~np.isfinite(found[:n_epochs]).all(axis=(0, 2))).sum())
        if n_wrong:
            warnings.warn(
                f"{fit}: the predictions of {n_wrong} windows are not finite, so scores"
                " that depend on them are nan",
                stacklevel=3,
            )
    return y_pred


def _warn_of_weak_results(comparison: Comparison) -> None:
    losses = comparison.mean_losses
    if worse := no_better_than_dummy(comparison):
        listed = ", ".join(f"{name} {losses[name]:.3g}" for name in worse)
        warnings.warn(
            f"no better than the dummy predictor, whose {comparison.loss_name} is"
            f" {losses[comparison.dummy]:.3g}: {listed}",
            stacklevel=3,
        )
    n, n_rows = len(comparison.subjects), len(comparison.paired)
    smallest = n_rows * smallest_p_value(n)
    if smallest >= ALPHA:
        warnings.warn(
            f"with {n} subjects in the test folds and {n_rows} comparisons no"
            f" corrected p-value can be below {min(smallest, 1):.2g}",
            stacklevel=3,
        )
