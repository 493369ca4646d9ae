"""What comes out of a comparison: scores, paired differences, pictures, a page."""

from __future__ import annotations

import dataclasses
import functools
import os
import warnings
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin

from braindecode_sam._arguments import check_choice
from braindecode_sam.checks import check_same_length
from braindecode_sam.comparison import _page
from braindecode_sam.comparison._statistics import (
    ALPHA,
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
from braindecode_sam.model_selection import Recordings
from braindecode_sam.visualization import plot_paired_losses, plot_score_by_epoch


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
        if by not in self._scores:
            self._scores[by] = self._score_all(by)
        return self._scores[by].copy()

    @functools.cached_property
    def _scores(self) -> dict[str, pd.DataFrame]:
        return {}  # by what they were asked for by: scorers take their time

    def _score_all(self, by: str) -> pd.DataFrame:
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
        estimator = stored(y_pred, self.classes)
        try:
            return float(scorer(estimator, windows, self.y[windows]))
        except ValueError:
            # Scorers raise it where they are not defined.
            if may_be_undefined:
                return float("nan")
            raise

    def to_frame(self) -> pd.DataFrame:
        """Return the main table.

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
                alpha=ALPHA / len(others),
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
        return self._by_epoch.copy()

    @functools.cached_property
    def _by_epoch(self) -> pd.DataFrame:
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
        pooled = Recordings(recordings)
        fold_of = np.full(len(self.y), -1)
        for i, rows in enumerate(self.folds):
            fold_of[rows] = i
        for what, values in (("target", self.y), ("subject", self.groups),
                             ("fold", fold_of)):  # fmt: skip
            row = pooled.first_that_varies(values)
            if row is not None:
                raise ValueError(
                    f"recordings must not mix windows, but the {what} of"
                    f" {pooled.name_of(row)!r} varies"
                )
        mean = functools.partial(pooled.mean, axis=-2)
        fold_of = fold_of[pooled.first]
        return dataclasses.replace(
            self,
            y=self.y[pooled.first],
            groups=self.groups[pooled.first],
            folds=[np.flatnonzero(fold_of == i) for i in range(len(self.folds))],
            y_pred={name: mean(p) for name, p in self.y_pred.items()},
            y_pred_by_epoch={n: mean(p) for n, p in self.y_pred_by_epoch.items()},
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
        if smallest >= ALPHA:
            warnings.warn(
                f"with {n} subjects in the test folds and {n_rows} comparisons no"
                f" corrected p-value can be below {min(smallest, 1):.2g}",
                stacklevel=3,
            )


def stored(y_pred: Any, classes: NDArray[Any] | None) -> BaseEstimator:
    """Make an estimator that has predicted already."""
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
