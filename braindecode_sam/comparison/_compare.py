"""Compare estimators in one call."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping
from numbers import Integral, Real
from typing import Any

import joblib
import mne
import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import (
    BaseEstimator,
    is_classifier,
    is_regressor,
)
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.metrics import check_scoring
from sklearn.model_selection import GroupKFold

from braindecode_sam._arguments import check_choice, check_integer
from braindecode_sam._checks import (
    as_numbers,
    check_disjoint,
    check_groups,
    check_same_length,
    check_targets,
    check_targets_or_labels,
)
from braindecode_sam._fingerprint import contents_of
from braindecode_sam.comparison import _fits
from braindecode_sam.comparison._comparison import Comparison, stored
from braindecode_sam.comparison._statistics import (
    Floats,
    Loss,
    window_losses,
)
from braindecode_sam.metrics import SCORING, SCORING_CLASSIFICATION
from braindecode_sam.model_selection import subjects_of

DUMMY = "dummy"
RESERVED = {
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
        ``random_state`` of the estimator. A net without a
        :class:`~braindecode_sam.callbacks.SeedCallback` gets one, with a single thread.
        Estimators without a ``random_state`` are fitted once.
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
        Folder in which to store finished fits. A second call with the same data and
        settings continues after the last finished fit, even if the first call was
        killed. It may add estimators and seeds. Functions and classes are compared by
        name, and by their own code if the script defines them. Use another folder
        after a change elsewhere, such as in a module or a global variable.
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
        If an argument is invalid, windows are in several test folds, a classifier lacks
        ``predict_proba``, or fits would share a file, as with skorch's
        ``Checkpoint(load_best=True)``. Also if `folder` belongs to other data or
        settings; it is not modified.

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
    _check_inputs(X, groups)
    check_same_length(X=X, y=y, groups=groups)
    groups = check_groups(groups)
    _check_subjects(groups)
    check_integer("n_seeds", n_seeds, 1)
    check_integer("random_state", random_state, 0, 2**32 - 1 - n_seeds)
    if n_jobs is not None and not isinstance(n_jobs, Integral):
        raise TypeError(f"n_jobs must be an integer or None, got {n_jobs!r}")
    estimators, classifies = _check_estimators(estimators)
    _check_nets(estimators, by_epoch, n_jobs)
    y = _labels_of(y) if classifies else _targets_of(y)
    classes = np.unique(y) if classifies else None
    if not hasattr(X, "shape") or hasattr(X, "iloc"):  # a list, or a table
        X = np.asarray(X)
    carried = subjects_of(X) if hasattr(X, "groups") else groups  # by SubjectWindows
    _check_carried(carried, groups)
    splits = _splits(cv, X, y, groups)
    scorers = _scorers(scoring, classifies)
    _check_scores(y, classes, loss, scorers)
    params = _check_params(params or {}, estimators)
    settings = {
        name: _fits.settings_of(e) | {"params": joblib.hash(params.get(name))}
        for name, e in estimators.items()
    }
    store = None
    if folder is not None:
        data = {"X": X, "y": y, "groups": groups}
        if not np.array_equal(carried, groups):
            data["groups of X"] = carried
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
        fits, estimators, X, y, splits, folder=store, n_jobs=n_jobs, verbose=verbose,
        classes=classes, by_epoch=by_epoch, params=params,
    )  # fmt: skip
    folds = [test for _, test in splits]
    dummies = [n for n, e in estimators.items() if _is_dummy(e)]
    comparison = Comparison(
        y=y,
        groups=groups,
        folds=folds,
        y_pred={n: _collect(n, results, folds, len(y)) for n in estimators},
        y_pred_by_epoch={
            n: _collect_epochs(n, results, folds, len(y))
            for n, e in estimators.items()
            if by_epoch and _fits.nets_in(e)
        },
        fits=_fits.facts_frame(results),
        settings=settings,
        classes=classes,
        scoring=scorers,
        loss=loss,
        dummy=dummies[0],
    )
    comparison.warn()
    return comparison


def _check_inputs(X: Any, groups: Any) -> None:
    if isinstance(X, mne.BaseEpochs):
        raise TypeError(
            f"X must not be mne.Epochs, which hold volts, got {X!r}; X, y, groups ="
            " braindecode_sam.datasets.to_arrays(epochs, target=...) converts them"
        )
    if groups is None:
        raise TypeError(
            "groups must name the subject of each window, got None; subjects are the"
            " unit of the comparison"
        )


def _targets_of(y: ArrayLike) -> NDArray[Any]:
    return as_numbers("y", check_targets(y))


def _labels_of(y: ArrayLike) -> NDArray[Any]:
    labels = np.asarray(y, dtype=object)  # which keeps text and numbers apart
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1:
        raise ValueError(
            "y must hold one label for each window, of shape (n_windows,), got the"
            f" shape {labels.shape}"
        )
    return check_targets_or_labels(labels)


def _check_carried(carried: NDArray[Any], groups: NDArray[Any]) -> None:
    """Warn if neither subjects of X lie within groups, nor groups within subjects."""
    subjects, one = np.unique(carried, return_inverse=True)
    names, other = np.unique(groups, return_inverse=True)
    n_pairs = len(set(zip(one.tolist(), other.tolist(), strict=True)))
    if n_pairs > max(len(subjects), len(names)):
        warnings.warn(
            f"the {len(subjects)} subjects in X and the {len(names)} in groups overlap"
            " in part, so estimators that read the subjects of X do not train and test"
            " on the people of groups; expected SubjectWindows(X, groups)",
            stacklevel=3,
        )


def _check_nets(
    estimators: Mapping[str, BaseEstimator], by_epoch: bool, n_jobs: int | None
) -> None:
    """Raise for nets whose fits would depend on one another."""
    nets = {name: _fits.nets_in(e) for name, e in estimators.items()}
    for name, inside in nets.items():
        _fits.check_searched(name, estimators[name])
        if by_epoch and len(inside) > 1:
            raise ValueError(
                f"by_epoch needs estimators with a single net, but {name!r} has"
                f" {len(inside)}"
            )
        for net in inside:
            _fits.check_callbacks(name, net)
            if isinstance(net.module, torch.nn.Module):
                warnings.warn(
                    f"the module of {name!r} is an instance, so all seeds have the same"
                    " initial weights; pass the class and its parameters",
                    stacklevel=3,
                )
    backend, _ = joblib.parallel.get_active_backend()
    shares = isinstance(backend, joblib.parallel.ThreadingBackend)
    if shares and any(nets.values()) and joblib.effective_n_jobs(n_jobs) > 1:
        raise ValueError(
            "nets that train in threads would share random number generators; expected"
            " n_jobs=1 or a backend of processes such as loky, got joblib's threading"
        )


def _check_scores(
    y: NDArray[Any], classes: NDArray[Any] | None, loss: Loss | None, scorers: Any
) -> None:
    """Call the loss and the scorers once, before any training."""
    if classes is None:
        columns = y.reshape(len(y), -1)
        y_pred = np.broadcast_to(columns.mean(axis=0), columns.shape)
    else:
        y_pred = np.full((len(y), len(classes)), 1 / len(classes))
    rows = np.arange(len(y))
    window_losses(y, y_pred[None], np.ones(len(y), dtype=bool), loss)
    for name, scorer in scorers.items():
        if name in RESERVED:
            raise ValueError(
                f"scoring must not name a scorer {name!r}, which is reserved for a"
                " column of the tables; use another name"
            )
        try:
            score = scorer(stored(y_pred, classes), rows, y)
        except Exception as error:
            error.add_note(f"Raised by the scorer {name!r}.")
            raise
        if not isinstance(score, Real):
            raise TypeError(
                f"scorer {name!r} must return a number, got {score!r}; pass a dict of"
                " scorers for several scores"
            )


def _check_subjects(groups: NDArray[Any]) -> None:
    subjects = np.unique(groups)
    if len(subjects) < 2:
        raise ValueError(
            "compare needs at least 2 subjects in groups, got"
            f" {len(subjects)}: {subjects.tolist()}"
        )


def _check_estimators(
    estimators: Mapping[str, BaseEstimator],
) -> tuple[dict[str, BaseEstimator], bool]:
    if not isinstance(estimators, Mapping) or not estimators:
        raise TypeError(
            'estimators must be a dict such as {"AdamW": net, "SAM": other_net}, got'
            f" {estimators!r}"
        )
    for name, estimator in estimators.items():
        if not isinstance(name, str) or not name:
            raise TypeError(
                f"names of estimators must be non-empty strings, got {name!r}"
            )
        if not (is_classifier(estimator) or is_regressor(estimator)):
            raise TypeError(
                "estimators must be regressors or classifiers of scikit-learn, got"
                f" {name!r}: {estimator!r}"
            )
    kinds = {name: is_classifier(e) for name, e in estimators.items()}
    classifies = next(iter(kinds.values()))
    for name, kind in kinds.items():
        if kind != classifies:
            raise ValueError(
                "estimators must be all regressors or all classifiers, but"
                f" {next(iter(kinds))!r} is a"
                f" {'classifier' if classifies else 'regressor'} and {name!r} is not"
            )
        if classifies and not hasattr(estimators[name], "predict_proba"):
            raise ValueError(
                "classifiers are compared by their probabilities, but"
                f" {name!r} ({type(estimators[name]).__name__}) has no predict_proba;"
                " sklearn.calibration.CalibratedClassifierCV gives it one"
            )
    if not any(_is_dummy(estimator) for estimator in estimators.values()):
        dummy = DummyClassifier() if classifies else DummyRegressor()
        if DUMMY in estimators:
            raise ValueError(
                f"the name {DUMMY!r} is reserved for the dummy predictor, got"
                f" {estimators[DUMMY]!r}; use another name"
            )
        estimators = {**estimators, DUMMY: dummy}
    if _is_dummy(next(iter(estimators.values()))):
        raise ValueError(
            "the first estimator is the reference and must not be a dummy predictor,"
            f" got {list(estimators)}"
        )
    return dict(estimators), classifies


def _is_dummy(estimator: BaseEstimator) -> bool:
    """Return whether an estimator predicts the mean or the class frequencies."""
    is_dummy = isinstance(estimator, (DummyClassifier, DummyRegressor))
    return is_dummy and estimator.strategy in ("mean", "prior")


def _splits(cv: Any, X: Any, y: Any, groups: NDArray[Any]) -> list[Any]:
    n_subjects = len(np.unique(groups))
    if cv is None:
        cv = min(5, n_subjects)
    if isinstance(cv, Integral):
        cv = check_integer("cv", cv, 2)
        if cv > n_subjects:
            raise ValueError(
                f"cv must be at most the number of subjects, {n_subjects}, got {cv}"
            )
        cv = GroupKFold(cv)
    accepted = (
        "an integer, a splitter such as GroupKFold(5), or an iterable of pairs of"
        " training and test rows"
    )
    is_splitter = hasattr(cv, "split")
    if isinstance(cv, (str, type)) or not (is_splitter or isinstance(cv, Iterable)):
        raise TypeError(f"cv must be {accepted}, got {cv!r}")
    pairs = list(cv.split(X, y, groups) if is_splitter else cv)
    for pair in pairs:
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise ValueError(f"cv must be {accepted}, got the item {pair!r}")
    splits = [
        (_rows_of(train, len(y)), _rows_of(test, len(y))) for train, test in pairs
    ]
    if not splits:
        raise ValueError("cv must yield at least one split, got none")
    check_disjoint([test for _, test in splits])
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


def _rows_of(part: ArrayLike, n_windows: int) -> NDArray[Any]:
    rows = np.asarray(part)
    if rows.dtype == bool:
        rows = np.flatnonzero(rows)
    is_rows = rows.ndim == 1 and rows.size and rows.dtype.kind in "iu"
    if not is_rows or rows.min() < 0 or rows.max() >= n_windows:
        raise ValueError(
            f"cv must yield indices of windows from 0 to {n_windows - 1}, at least one"
            f" on each side, got {part!r}"
        )
    return rows


def _scorers(scoring: Any, classifies: bool) -> dict[str, Any]:
    if scoring is None:
        scoring = SCORING_CLASSIFICATION if classifies else SCORING
    if isinstance(scoring, str) or callable(scoring):
        scoring = {scoring if isinstance(scoring, str) else "score": scoring}
    if not isinstance(scoring, Mapping):
        names = list(scoring) if isinstance(scoring, Iterable) else [scoring]
        if not all(isinstance(name, str) for name in names):
            raise TypeError(
                "scoring must be the name of a scorer, a list of names, a dict of"
                f" scorers by their names, or a scorer, got {scoring!r}"
            )
        scoring = {name: name for name in names}
    # The estimator serves only to call it.
    return {name: check_scoring(DummyRegressor(), s) for name, s in scoring.items()}


def _check_params(
    params: Mapping[str, Mapping[str, Any]], estimators: Mapping[str, Any]
) -> Mapping[str, Mapping[str, Any]]:
    for name in params:
        check_choice("params", name, list(estimators))
    return params


def _collect(
    name: str, results: Mapping[Any, Any], folds: list[Any], n_windows: int
) -> Floats:
    """Join the predictions of folds; windows in no test fold are nan."""
    mine = {fit: r for fit, r in sorted(results.items()) if fit.estimator == name}
    seeds = list(dict.fromkeys(fit.seed for fit in mine))
    n_columns = next(iter(mine.values()))["y_pred"].shape[1]
    y_pred = np.full((len(seeds), n_windows, n_columns), np.nan)
    for fit, result in mine.items():
        y_pred[seeds.index(fit.seed), folds[fit.fold]] = result["y_pred"]
        n_wrong = int((~np.isfinite(result["y_pred"]).all(axis=1)).sum())
        if n_wrong:
            warnings.warn(
                f"{fit}: the predictions of {n_wrong} windows are not finite, so scores"
                " that depend on them are nan",
                stacklevel=3,
            )
    return y_pred


def _collect_epochs(
    name: str, results: Mapping[Any, Any], folds: list[Any], n_windows: int
) -> Floats:
    """Join the predictions of folds, up to the last epoch that all fits have."""
    curves = {fit: r["by_epoch"] for fit, r in results.items() if fit.estimator == name}
    n_epochs = min(map(len, curves.values()))
    per_epoch = [
        _collect(
            name,
            {fit: {"y_pred": curve[epoch]} for fit, curve in curves.items()},
            folds,
            n_windows,
        )
        for epoch in range(n_epochs)
    ]
    return np.stack(per_epoch, axis=1)
