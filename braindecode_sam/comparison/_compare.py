"""Compare estimators in one call, and hold what came out."""

from __future__ import annotations

import dataclasses
import functools
import os
import warnings
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any

import joblib
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray
from sklearn.base import (
    BaseEstimator,
    ClassifierMixin,
    RegressorMixin,
    is_classifier,
    is_regressor,
)
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.metrics import get_scorer
from sklearn.model_selection import GroupKFold

from braindecode_sam._arguments import check_choice, check_integer
from braindecode_sam.checks import (
    as_labels,
    as_names,
    as_numbers,
    check_groups,
    check_labels,
    check_same_length,
    check_targets,
    has_text,
)
from braindecode_sam.comparison import _fits, _page
from braindecode_sam.comparison._statistics import (
    Floats,
    Loss,
    PairedComparison,
    bootstrap_interval,
    compare_losses,
    holm,
    name_of_loss,
    smallest_p_value,
    subject_means,
    window_losses,
)
from braindecode_sam.metrics import SCORING, SCORING_CLASSIFICATION
from braindecode_sam.model_selection import check_disjoint
from braindecode_sam.visualization import plot_paired_losses, plot_score_by_epoch

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
    verbose: int = 1,
) -> Comparison:
    """Fit estimators on the same folds and seeds, and compare them by subject.

    Parameters
    ----------
    estimators : dict of str to estimator
        Nets, pipelines or any other estimators of scikit-learn, all regressors or all
        classifiers. The others are compared with the first. Where no dummy
        predictor is among them that predicts the mean or the shares of the classes, one
        is added under the name "dummy".
    X : array-like of shape (n_windows, n_chans, n_times)
        EEG; :class:`~braindecode_sam.datasets.SubjectWindows` where an estimator
        itself asks for the subjects.
    y : array-like of shape (n_windows,) or (n_windows, n_outputs)
        Targets, or labels of any kind.
    groups : array-like of shape (n_windows,)
        Subject of each window: the unit of all statistics.
    cv : int, splitter or iterable of splits, optional
        Folds, ``GroupKFold(5)`` by default, of fewer folds for fewer subjects. An
        integer is the number of folds of a ``GroupKFold``. No window may be in several
        test folds.
    n_seeds : int, default=5
        Fits of each estimator on each fold. Every ``random_state`` of an estimator is
        set, and a net without a :class:`~braindecode_sam.callbacks.SeedCallback` gets
        one, with a single thread. What takes no ``random_state`` is fitted once.
    scoring : str, list, dict, optional
        Scorers as in ``cross_validate``, by default
        :data:`~braindecode_sam.SCORING` or
        :data:`~braindecode_sam.SCORING_CLASSIFICATION`. They are called with an
        estimator that gives the stored predictions, and with numbers of windows as X.
    loss : str or callable, optional
        The loss by which subjects are compared; see :func:`paired_comparison`.
    by_epoch : bool, default=False
        Also predict the test fold with the weights of every epoch, for estimators that
        predict with a single net. The training does not depend on it.
    folder : path-like, optional
        Keep every finished fit there. A second call with the same data and settings
        continues where the first stopped, also after it was killed, and may bring
        further estimators and seeds. Functions that can be imported are compared by
        their names.
    n_jobs : int, optional
        Fits at a time, on joblib's current backend: loky's processes or, inside of
        :func:`~braindecode_sam.model_selection.on_dask`, a cluster.
    params : dict of str to dict, optional
        By the name of an estimator, parameters of its ``fit``, as ``params`` of
        ``cross_validate``: ``{"ridge": {"groups": groups}}``.
    random_state : int, default=0
        The first seed; the others follow it.
    verbose : int, default=1
        Print a line every few seconds with an estimate of the time that is left, unless
        0. Nets print what their own ``verbose`` says.

    Returns
    -------
    comparison : Comparison
        Scores, paired differences, pictures and a report.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described; if windows are in several test folds; if a
        classifier has no ``predict_proba``; if fits would share a file, as those of a
        net with skorch's ``Checkpoint(load_best=True)``; or if `folder` belongs to
        other data or settings, in which case nothing in it is changed.

    Warns
    -----
    UserWarning
        If a fold trains and tests on the same subject, if a net is no better than the
        dummy predictor, if there are too few subjects for any corrected p-value below
        0.05, or if predictions are not finite.

    See Also
    --------
    paired_comparison : For predictions that you already have.

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
    check_same_length(X=X, y=y, groups=groups)
    groups = check_groups(groups)
    _check_subjects(groups)
    check_integer("n_seeds", n_seeds, 1)
    check_integer("random_state", random_state, 0, 2**32 - 1 - n_seeds)
    estimators, classifies = _check_estimators(estimators)
    _check_nets(estimators, by_epoch, n_jobs)
    y = _check_y(y, classifies)
    classes = np.unique(y) if classifies else None
    if not hasattr(X, "shape") or hasattr(X, "iloc"):  # a list, or a table
        X = np.asarray(X)
    splits = _splits(cv, X, y, groups)
    scorers = _scorers(scoring, classifies)
    _check_scores(y, classes, loss, scorers)
    params = _check_params(params or {}, estimators)
    settings = {
        name: _fits.settings_of(e) | {"params": joblib.hash(params.get(name))}
        for name, e in estimators.items()
    }
    claimed = None
    if folder is not None:
        data = {"X": X, "y": y, "groups": groups}
        told = {name: _fits.digest(values) for name, values in data.items()}
        told["folds"] = joblib.hash([[a.tolist(), b.tolist()] for a, b in splits])
        claimed = _fits.Folder(folder, told, settings)
    fits = [
        _fits.Fit(seed, fold, name)
        for name, estimator in estimators.items()
        for seed in range(random_state, random_state + n_seeds)
        if seed == random_state or _fits.has_randomness(estimator)
        for fold in range(len(splits))
    ]
    results = _fits.run(
        fits, estimators, X, y, splits, folder=claimed, n_jobs=n_jobs, verbose=verbose,
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


def _check_y(y: ArrayLike, classifies: bool) -> NDArray[Any]:
    if has_text(y):
        check_labels(y)
        return as_labels("y", y)
    check_targets(y)
    array = np.asarray(y)
    return array if classifies and array.dtype != object else as_numbers("y", y)


def _check_nets(
    estimators: Mapping[str, BaseEstimator], by_epoch: bool, n_jobs: int | None
) -> None:
    """Refuse what would give other results than each fit by itself."""
    nets = {name: _fits.nets_in(e) for name, e in estimators.items()}
    for name, inside in nets.items():
        if by_epoch and len(inside) > 1:
            raise ValueError(
                f"by_epoch needs estimators with a single net, but {name!r} has"
                f" {len(inside)}"
            )
        for net in inside:
            _fits.check_callbacks(name, net)
            if isinstance(net.module, torch.nn.Module):
                warnings.warn(
                    f"the module of {name!r} is an instance, whose first weights are"
                    " the same for all seeds; pass the class and its parameters",
                    stacklevel=3,
                )
    backend, _ = joblib.parallel.get_active_backend()
    shares = isinstance(backend, joblib.parallel.ThreadingBackend)
    if shares and any(nets.values()) and joblib.effective_n_jobs(n_jobs) > 1:
        raise ValueError(
            "nets that train in threads share random numbers; expected n_jobs=1 or a"
            " backend of processes such as loky, got joblib's threading"
        )


def _check_scores(
    y: NDArray[Any], classes: NDArray[Any] | None, loss: Loss | None, scorers: Any
) -> None:
    """Use loss and scorers once, before any training."""
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
                f"scoring must not name a scorer {name!r}, which is a column of the"
                " tables; expected another name"
            )
        score = scorer(_stored(y_pred, classes), rows, y)
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
            raise TypeError(f"names of estimators must be texts, got {name!r}")
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
                f"the name {DUMMY!r} is that of the dummy predictor, got"
                f" {estimators[DUMMY]!r}; expected another name"
            )
        estimators = {**estimators, DUMMY: dummy}
    if len(estimators) < 2 or _is_dummy(next(iter(estimators.values()))):
        raise ValueError(
            "the first of the estimators is the reference and cannot be a dummy"
            f" predictor, got {list(estimators)}"
        )
    return dict(estimators), classifies


def _is_dummy(estimator: BaseEstimator) -> bool:
    """Tell whether an estimator always predicts the mean or the shares of classes."""
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
    splits = [
        (_rows_of(train, len(y)), _rows_of(test, len(y)))
        for train, test in (cv.split(X, y, groups) if hasattr(cv, "split") else cv)
    ]
    if not splits:
        raise ValueError("cv must give at least one split, got none")
    check_disjoint([test for _, test in splits])
    for i, (train, test) in enumerate(splits):
        shared = np.intersect1d(groups[train], groups[test])
        if len(shared):
            warnings.warn(
                f"fold {i + 1} trains and tests on {len(shared)} of the same groups,"
                f" {shared.tolist()[0]!r} among them, so its scores do not tell what to"
                " expect of new ones; use GroupKFold",
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
            f"cv must give numbers of windows from 0 to {n_windows - 1}, at least one"
            f" on each side, got {part!r}"
        )
    return rows


def _scorers(scoring: Any, classifies: bool) -> dict[str, Any]:
    if scoring is None:
        scoring = SCORING_CLASSIFICATION if classifies else SCORING
    if isinstance(scoring, str) or callable(scoring):
        scoring = {scoring if isinstance(scoring, str) else "score": scoring}
    if not isinstance(scoring, Mapping):
        scoring = {name: name for name in scoring}
    return {name: get_scorer(s) if isinstance(s, str) else s
            for name, s in scoring.items()}  # fmt: skip


def _check_params(
    params: Mapping[str, Mapping[str, Any]], estimators: Mapping[str, Any]
) -> Mapping[str, Mapping[str, Any]]:
    for name in params:
        check_choice("params", name, list(estimators))
    return params


def _collect(
    name: str, results: Mapping[Any, Any], folds: list[Any], n_windows: int
) -> Floats:
    """Put folds together; windows in no test fold are nan."""
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
    """Put folds together, up to the last epoch that all fits have."""
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


@dataclasses.dataclass(frozen=True, eq=False)
class Comparison:
    """What :func:`compare` returns.

    Attributes
    ----------
    y : ndarray of shape (n_windows,) or (n_windows, n_outputs)
        Targets or labels.
    groups : ndarray of shape (n_windows,)
        Subject of each window.
    folds : list of ndarray of int
        Windows of each test fold.
    y_pred : dict of str to ndarray of shape (n_seeds, n_windows, n_columns)
        Out-of-fold predictions of each estimator: values, or probabilities in the
        order of `classes`. nan for windows in no test fold.
    y_pred_by_epoch : dict of str to ndarray
        Likewise of shape (n_seeds, n_epochs, n_windows, n_columns), of the estimators
        with a net if ``by_epoch=True``. Where trainings stop at different epochs, up to
        the last one that all have reached.
    fits : pandas.DataFrame
        A row for each fit: seconds by the clock and of the processor, epochs trained,
        number of parameters.
    settings : dict of str to dict
        Parameters of each estimator, as texts.
    classes : ndarray of shape (n_classes,) or None
        Labels, sorted; None for regression.
    scoring : dict of str to callable
        Scorers by name.
    loss : str, callable or None
        The loss of the paired comparisons.
    dummy : str
        Name of the dummy predictor.
    """

    y: NDArray[Any] = dataclasses.field(repr=False)
    groups: NDArray[Any] = dataclasses.field(repr=False)
    folds: list[NDArray[np.int64]] = dataclasses.field(repr=False)
    y_pred: dict[str, Floats] = dataclasses.field(repr=False)
    y_pred_by_epoch: dict[str, Floats] = dataclasses.field(repr=False)
    fits: pd.DataFrame = dataclasses.field(repr=False)
    settings: dict[str, dict[str, str]] = dataclasses.field(repr=False)
    classes: NDArray[Any] | None
    scoring: dict[str, Any] = dataclasses.field(repr=False)
    loss: Loss | None
    dummy: str

    @property
    def estimators(self) -> list[str]:
        """Names of the estimators, the reference first."""
        return list(self.y_pred)

    @property
    def reference(self) -> str:
        """Name of the estimator that the others are compared with."""
        return self.estimators[0]

    @property
    def loss_name(self) -> str:
        """Name of the loss of the paired comparisons."""
        n_columns = self.y_pred[self.reference].shape[-1]
        return name_of_loss(self.loss, self.y, n_columns)

    @functools.cached_property
    def _rows(self) -> NDArray[np.bool_]:
        rows = np.zeros(len(self.y), dtype=bool)
        rows[np.concatenate(self.folds)] = True
        return rows

    @property
    def subjects(self) -> NDArray[Any]:
        """Subjects in the test folds, sorted."""
        return np.unique(self.groups[self._rows])

    @property
    def subject_losses(self) -> pd.DataFrame:
        """Mean loss of each subject (rows) with each estimator (columns)."""
        return self._subject_losses.copy()

    @functools.cached_property
    def _subject_losses(self) -> pd.DataFrame:
        return pd.DataFrame(
            {name: self._losses(y_pred) for name, y_pred in self.y_pred.items()},
            index=pd.Index(self.subjects, name="subject"),
        )

    def _losses(self, y_pred: Any) -> Floats:
        per_window = window_losses(self.y, y_pred, self._rows, self.loss)
        return subject_means(per_window, self.groups[self._rows])

    def scores(self, by: str = "pooled") -> pd.DataFrame:
        """Score the out-of-fold predictions.

        Parameters
        ----------
        by : {"pooled", "fold", "subject"}, default="pooled"
            All windows together, each test fold, or each subject by itself. Scores of
            subjects and folds are nan where they are not defined, as the NRMSE is for a
            subject with a single value.

        Returns
        -------
        scores : pandas.DataFrame
            A row for each estimator, seed and fold or subject, a column for each
            scorer.
        """
        check_choice("by", by, ("pooled", "fold", "subject"))
        parts = self._parts(by)
        rows = []
        for name, y_pred in self.y_pred.items():
            seeds = self.fits.loc[self.fits["estimator"] == name, "seed"]
            for seed, one in zip(np.unique(seeds), y_pred, strict=True):
                for part, windows in parts.items():
                    scored = {
                        metric: self._score(scorer, one, windows, by != "pooled")
                        for metric, scorer in self.scoring.items()
                    }
                    rows.append({"estimator": name, "seed": seed, by: part, **scored})
        table = pd.DataFrame(rows)
        return table.drop(columns="pooled") if by == "pooled" else table

    def _parts(self, by: str) -> dict[Any, NDArray[np.int64]]:
        tested = np.flatnonzero(self._rows)
        if by == "pooled":
            return {by: tested}
        if by == "fold":
            return {i + 1: np.asarray(rows) for i, rows in enumerate(self.folds)}
        groups = self.groups[tested]
        return {subject: tested[groups == subject] for subject in self.subjects}

    def _score(
        self, scorer: Any, y_pred: Any, windows: Any, may_be_undefined: bool
    ) -> float:
        if not np.isfinite(y_pred[windows]).all():
            return float("nan")
        stored = _stored(y_pred, self.classes)
        try:
            return float(scorer(stored, windows, self.y[windows]))
        except ValueError:
            # Scorers raise it where they are not defined.
            if may_be_undefined:
                return float("nan")
            raise

    def to_frame(self) -> pd.DataFrame:
        """Give the main table.

        Returns
        -------
        table : pandas.DataFrame
            A row for each estimator. Each scorer's pooled score averaged over the
            seeds, its standard deviation over the seeds (``_sd``), its mean over folds
            and seeds (``_folds``) and over subjects and seeds (``_subjects``); the
            comparisons' `loss`, averaged over subjects, with a 95 % interval over
            subjects (``loss_low``, ``loss_high``); processor seconds, epochs and
            parameters of a fit.
        """
        columns: dict[str, Any] = {}
        grouped = {
            by: self.scores(by).groupby("estimator", sort=False)
            for by in ("pooled", "fold", "subject")
        }
        for metric in self.scoring:
            columns[metric] = grouped["pooled"][metric].mean()
            columns[f"{metric}_sd"] = grouped["pooled"][metric].std()
            columns[f"{metric}_folds"] = grouped["fold"][metric].mean()
            columns[f"{metric}_subjects"] = grouped["subject"][metric].mean()
        table = pd.DataFrame(columns)
        losses = self.subject_losses
        table["loss"] = losses.mean()
        bounds = {name: bootstrap_interval(losses[name].to_numpy()) for name in losses}
        table["loss_low"] = {name: low for name, (low, _) in bounds.items()}
        table["loss_high"] = {name: high for name, (_, high) in bounds.items()}
        facts = self.fits.groupby("estimator", sort=False)
        for name in ("cpu_seconds", "n_epochs", "n_params"):
            table[name] = facts[name].mean()
        return table.loc[self.estimators]

    @functools.cached_property
    def paired(self) -> dict[str, PairedComparison]:
        """Each estimator against the reference; see :func:`paired_comparison`."""
        others = [name for name in self.estimators if name != self.reference]
        losses = {n: c.to_numpy() for n, c in self.subject_losses.items()}
        return {
            name: compare_losses(
                losses[name],
                losses[self.reference],
                self.subjects,
                confidence=0.95,
                alpha=0.05 / len(others),
                random_state=0,
            )
            for name in others
        }

    def comparisons(self) -> pd.DataFrame:
        """Compare every estimator with the reference.

        Returns
        -------
        table : pandas.DataFrame
            A row for each estimator but the reference, the dummy predictor included:
            `difference` of the mean loss to the reference's (negative: better), its
            95 % bootstrap interval over subjects, `n_better` of `n_subjects`, the
            `p_value` of a sign-flip permutation test, `p_holm` corrected for all rows,
            and `smallest_detectable`, the difference that this many subjects would have
            shown four times out of five at the level 0.05 over the number of rows.
        """
        names = (
            "difference", "ci_low", "ci_high", "n_better", "n_subjects", "p_value",
            "smallest_detectable",
        )  # fmt: skip
        table = pd.DataFrame(
            {
                name: {key: getattr(found, key) for key in names}
                for name, found in self.paired.items()
            }
        ).T
        table.insert(6, "p_holm", holm(table["p_value"].to_numpy(dtype=float)))
        return table.astype({"n_better": int, "n_subjects": int}).rename_axis(
            "estimator"
        )

    def by_epoch(self) -> pd.DataFrame:
        """Mean loss of the test folds after each epoch.

        Returns
        -------
        table : pandas.DataFrame
            Columns `estimator`, `epoch` (from 1), `loss` (mean over subjects),
            `loss_low` and `loss_high` (95 % over subjects); for all but the reference
            also `difference` to it with `ci_low` and `ci_high`.

        Raises
        ------
        ValueError
            If the comparison was not made with ``by_epoch=True``.
        """
        if not self.y_pred_by_epoch:
            raise ValueError(
                "there are no predictions by epoch; call compare(..., by_epoch=True)"
            )
        losses = {
            name: np.stack([self._losses(y_pred[:, e]) for e in range(y_pred.shape[1])])
            for name, y_pred in self.y_pred_by_epoch.items()
        }
        base = losses.get(self.reference)
        rows = []
        for name, curve in losses.items():
            for epoch, values in enumerate(curve):
                low, high = bootstrap_interval(values)
                row = {"estimator": name, "epoch": epoch + 1, "loss": values.mean(),
                       "loss_low": low, "loss_high": high}  # fmt: skip
                if base is not None and name != self.reference and epoch < len(base):
                    d = values - base[epoch]
                    row["difference"] = d.mean()
                    row["ci_low"], row["ci_high"] = bootstrap_interval(d)
                rows.append(row)
        return pd.DataFrame(rows)

    def by_recording(self, recordings: ArrayLike) -> Comparison:
        """Average the predictions of each recording's windows.

        Parameters
        ----------
        recordings : array-like of shape (n_windows,)
            Recording of each window. All windows of a recording must have the same
            target, the same subject and the same fold.

        Returns
        -------
        comparison : Comparison
            Of recordings instead of windows.

        Raises
        ------
        ValueError
            If a recording's target, subject or fold varies.
        """
        check_same_length(y=self.y, recordings=recordings)
        names, first, index = np.unique(
            as_names("recordings", recordings, "a recording"),
            return_index=True,
            return_inverse=True,
        )
        fold_of = np.full(len(self.y), -1)
        for i, rows in enumerate(self.folds):
            fold_of[rows] = i
        for what, values in (("target", self.y), ("subject", self.groups),
                             ("fold", fold_of)):  # fmt: skip
            varies = values != values[first][index]
            wrong = np.flatnonzero(varies.reshape(len(values), -1).any(axis=1))
            if len(wrong):
                raise ValueError(
                    f"recordings must not mix windows, but the {what} of"
                    f" {names.tolist()[index[wrong[0]]]!r} varies"
                )

        order, counts = np.argsort(index, kind="stable"), np.bincount(index)
        starts = np.cumsum(counts) - counts

        def pooled(y_pred: Any) -> Any:
            sums = np.add.reduceat(y_pred[..., order, :], starts, axis=-2)
            return sums / counts[:, None]

        return dataclasses.replace(
            self,
            y=self.y[first],
            groups=self.groups[first],
            folds=[np.flatnonzero(fold_of[first] == i) for i in range(len(self.folds))],
            y_pred={name: pooled(p) for name, p in self.y_pred.items()},
            y_pred_by_epoch={n: pooled(p) for n, p in self.y_pred_by_epoch.items()},
        )

    def plot(self) -> Figure:
        """Plot each subject's loss with every estimator, and the differences.

        Returns
        -------
        figure : matplotlib.figure.Figure
            See :func:`~braindecode_sam.visualization.plot_paired_losses`.
        """
        return plot_paired_losses(
            self.subject_losses, self.comparisons(), loss=_page.label(self.loss_name),
            dummy=self.dummy,
        )  # fmt: skip

    def plot_by_epoch(self) -> Figure:
        """Plot the mean loss of the test folds after each epoch.

        Returns
        -------
        figure : matplotlib.figure.Figure
            A curve for each estimator with its interval over subjects.
        """
        return plot_score_by_epoch(
            self.by_epoch(), loss=_page.label(self.loss_name),
            dummy=float(self.subject_losses[self.dummy].mean()),
        )  # fmt: skip

    def sentences(self) -> list[str]:
        """Say in a sentence or two what each comparison shows."""
        return _page.sentences(self)

    def report(self, path: str | os.PathLike[str], title: str = "Comparison") -> None:
        """Write a self-contained HTML page.

        Parameters
        ----------
        path : path-like
            Ending in ``.html``. An existing page is overwritten.
        title : str, default="Comparison"
            Of the page.
        """
        _page.write(self, path, title)

    def warn(self) -> None:
        """Warn of what makes the comparison worth less."""
        losses = self.subject_losses.mean()
        useless = [
            name
            for name in self.estimators
            if name != self.dummy and not losses[name] < losses[self.dummy]
        ]
        if useless:
            worst = ", ".join(f"{name} {losses[name]:.3g}" for name in useless)
            warnings.warn(
                f"no better than the dummy predictor, whose {self.loss_name} is"
                f" {losses[self.dummy]:.3g}: {worst}",
                stacklevel=3,
            )
        n, n_rows = len(self.subjects), len(self.paired)
        smallest = n_rows * smallest_p_value(n)
        if smallest >= _page.SIGNIFICANT:
            warnings.warn(
                f"with {n} subjects in the test folds and {n_rows} comparisons no"
                f" corrected p-value can be below {min(smallest, 1):.2g}",
                stacklevel=3,
            )


def _stored(y_pred: Any, classes: NDArray[Any] | None) -> BaseEstimator:
    kind = _StoredRegressor if classes is None else _StoredClassifier
    return kind(y_pred, classes)


class _StoredRegressor(RegressorMixin, BaseEstimator):
    """Has predicted already; X are the numbers of windows."""

    def __init__(self, y_pred: Any, classes: Any) -> None:
        self.y_pred = y_pred
        self.classes_ = classes

    def predict(self, X: Any) -> Any:
        y_pred = self.y_pred[X]
        return y_pred[:, 0] if y_pred.shape[1] == 1 else y_pred


class _StoredClassifier(ClassifierMixin, BaseEstimator):
    """Has predicted already; X are the numbers of windows."""

    def __init__(self, y_pred: Any, classes: Any) -> None:
        self.y_pred = y_pred
        self.classes_ = classes

    def predict_proba(self, X: Any) -> Any:
        return self.y_pred[X]

    def predict(self, X: Any) -> Any:
        return self.classes_[self.y_pred[X].argmax(axis=1)]
