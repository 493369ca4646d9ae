"""Result of a comparison: scores, paired differences, figures and a report."""

from __future__ import annotations

import dataclasses
import functools
import os
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin

from braindecode_sam._arguments import check_choice
from braindecode_sam._checks import as_names, check_same_length
from braindecode_sam.comparison import _page, _plots
from braindecode_sam.comparison._statistics import (
    ALPHA,
    Floats,
    Loss,
    PairedComparison,
    bootstrap_interval,
    compare_losses,
    holm,
    name_of_loss,
    subject_means,
    window_losses,
)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Comparison:
    """Result of :func:`compare`.

    Attributes
    ----------
    y : ndarray of shape (n_windows,) or (n_windows, n_outputs)
        Targets or labels.
    groups : ndarray of shape (n_windows,)
        Subject of each window.
    folds : list of ndarray of int
        Windows of each test fold.
    y_pred : dict of str to ndarray of shape (n_seeds, n_windows, n_columns)
        Out-of-fold predictions of each estimator, either values or probabilities in the
        order of `classes`. nan for windows in no test fold.
    y_pred_by_epoch : dict of str to ndarray
        Out-of-fold predictions after each epoch, of shape
        (n_seeds, n_epochs, n_windows, n_columns), for estimators with a net if
        ``by_epoch=True``. It ends at the last epoch that all fits have reached.
    fits : pandas.DataFrame
        A row for each fit, with wall-clock and CPU seconds, number of epochs and number
        of parameters.
    settings : dict of str to dict
        Parameters of each estimator, as text.
    classes : ndarray of shape (n_classes,) or None
        Sorted labels, or None for regression.
    scoring : dict of str to callable
        Scorers by name.
    loss : str, callable or None
        Loss of the paired comparisons.
    dummy : str
        Name of the dummy predictor.

    See Also
    --------
    compare : Fit estimators and compare them.
    """

    y: NDArray[Any]
    groups: NDArray[Any]
    folds: list[NDArray[np.int64]]
    y_pred: dict[str, Floats]
    y_pred_by_epoch: dict[str, Floats]
    fits: pd.DataFrame
    settings: dict[str, dict[str, str]]
    classes: NDArray[Any] | None
    scoring: dict[str, Any]
    loss: Loss | None
    dummy: str

    def __repr__(self) -> str:
        return (
            f"Comparison(estimators={self.estimators}, dummy={self.dummy!r},"
            f" loss={self.loss_name!r}, n_subjects={len(self.subjects)})"
        )

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

    @property
    def _rows(self) -> NDArray[np.bool_]:
        return np.isin(np.arange(len(self.y)), np.concatenate(self.folds))

    @property
    def subjects(self) -> NDArray[Any]:
        """Subjects in the test folds, sorted."""
        return np.unique(self.groups[self._rows])

    @property
    def subject_losses(self) -> pd.DataFrame:
        """Mean loss of each subject (rows) with each estimator (columns)."""
        return pd.DataFrame(
            {name: self._losses(y_pred) for name, y_pred in self.y_pred.items()},
            index=pd.Index(self.subjects, name="subject"),
        )

    @property
    def mean_losses(self) -> pd.Series:
        """Loss of each estimator, nan if some of its predictions are not finite."""
        return self.subject_losses.mean(skipna=False)

    def _losses(self, y_pred: Any) -> Floats:
        per_window = window_losses(self.y, y_pred, self._rows, self.loss)
        return subject_means(per_window, self.groups[self._rows])

    def scores(self, by: str = "pooled") -> pd.DataFrame:
        """Score the out-of-fold predictions.

        Parameters
        ----------
        by : {"pooled", "fold", "subject"}, default="pooled"
            Whether to score all windows together, each test fold or each subject.
            Scores of subjects and folds are nan where they are undefined, as the NRMSE
            is for a subject with a constant target.

        Returns
        -------
        scores : pandas.DataFrame
            A row for each estimator, seed and fold or subject. A column for each
            scorer.
        """
        check_choice("by", by, ("pooled", "fold", "subject"))
        return self._scores[by].copy()

    @functools.cached_property
    def _scores(self) -> dict[str, pd.DataFrame]:
        tested = np.flatnonzero(self._rows)
        of_subject = pd.Series(tested).groupby(self.groups[tested])
        parts = {
            "pooled": {0: tested},
            "fold": {i + 1: rows for i, rows in enumerate(self.folds)},
            "subject": {name: rows.to_numpy() for name, rows in of_subject},
        }
        seeds = self.fits.groupby("estimator")["seed"].unique()
        tables = {
            by: pd.DataFrame(
                {"estimator": name, "seed": seed, by: part}
                | {
                    metric: self._score(scorer, one, rows, by != "pooled")
                    for metric, scorer in self.scoring.items()
                }
                for name, y_pred in self.y_pred.items()
                for seed, one in zip(seeds[name], y_pred, strict=True)
                for part, rows in windows.items()
            )
            for by, windows in parts.items()
        }
        return tables | {"pooled": tables["pooled"].drop(columns="pooled")}

    def _score(
        self, scorer: Any, y_pred: Any, windows: Any, may_be_undefined: bool
    ) -> float:
        if not np.isfinite(y_pred[windows]).all():
            return float("nan")
        estimator = stored(y_pred, self.classes)
        try:
            return float(scorer(estimator, windows, self.y[windows]))
        except ValueError:
            # Scorers raise it where they are undefined.
            if may_be_undefined:
                return float("nan")
            raise

    def to_frame(self) -> pd.DataFrame:
        """Return the main table of scores.

        Returns
        -------
        table : pandas.DataFrame
            A row for each estimator. For each scorer, the mean of the pooled score over
            the seeds, its standard deviation over the seeds (``_sd``), and its means
            over folds and seeds (``_folds``) and over subjects and seeds
            (``_subjects``). The `loss` of the comparisons, averaged over subjects, with
            a 95 % interval over subjects (``loss_low``, ``loss_high``). CPU seconds,
            epochs and number of parameters of a fit.
        """
        pooled, folds, subjects = (
            self.scores(by).groupby("estimator") for by in ("pooled", "fold", "subject")
        )
        table = pd.DataFrame(index=pd.Index(self.estimators, name="estimator"))
        for metric in self.scoring:
            table[metric] = pooled[metric].mean()
            table[f"{metric}_sd"] = pooled[metric].std()
            table[f"{metric}_folds"] = folds[metric].mean()
            table[f"{metric}_subjects"] = subjects[metric].mean()
        losses = self.subject_losses
        table["loss"] = self.mean_losses
        bounds = [bootstrap_interval(losses[name].to_numpy()) for name in losses]
        table["loss_low"], table["loss_high"] = zip(*bounds, strict=True)
        for name in ("cpu_seconds", "n_epochs", "n_params"):
            table[name] = self.fits.groupby("estimator")[name].mean()
        return table

    @functools.cached_property
    def paired(self) -> dict[str, PairedComparison]:
        """A :class:`PairedComparison` of each estimator with the reference, by name."""
        losses = {n: c.to_numpy() for n, c in self.subject_losses.items()}
        reference = losses.pop(self.reference)
        return {
            name: compare_losses(
                mine, reference, self.subjects, confidence=0.95,
                alpha=ALPHA / len(losses), random_state=0,
            )
            for name, mine in losses.items()
        }  # fmt: skip

    def comparisons(self) -> pd.DataFrame:
        """Compare every estimator with the reference.

        Returns
        -------
        table : pandas.DataFrame
            A row for each estimator except the reference, including the dummy
            predictor. `difference` is the mean loss minus that of the reference
            (negative is better), `ci_low` and `ci_high` its 95 % bootstrap interval
            over subjects. `n_better` of `n_subjects` have a lower loss. `p_value` is
            that of a sign-flip permutation test, and `p_holm` is corrected for all
            rows. `smallest_detectable` is the difference that the test has 80 % power
            to detect, at the level 0.05 divided by the number of rows.
        """
        names = (
            "difference", "ci_low", "ci_high", "n_better", "n_subjects", "p_value",
            "smallest_detectable",
        )  # fmt: skip
        rows = [[getattr(one, name) for name in names] for one in self.paired.values()]
        index = pd.Index(self.paired, name="estimator")
        table = pd.DataFrame(rows, index, columns=names)
        table.insert(6, "p_holm", holm(table["p_value"]))
        return table

    def by_epoch(self) -> pd.DataFrame:
        """Return the mean loss of the test folds after each epoch.

        Returns
        -------
        table : pandas.DataFrame
            Columns `estimator`, `epoch` (from 1), `loss` (mean over subjects),
            `loss_low` and `loss_high` (95 % interval over subjects). For all except the
            reference also the `difference` from it with `ci_low` and `ci_high`.

        Raises
        ------
        ValueError
            If the comparison was not made with ``by_epoch=True``.
        """
        if not self.y_pred_by_epoch:
            raise ValueError(
                "no predictions by epoch were stored; call compare(..., by_epoch=True)"
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
        """Average the predictions over the windows of each recording.

        Parameters
        ----------
        recordings : array-like of shape (n_windows,)
            Recording of each window. All windows of a recording must have the same
            target, the same subject and the same fold.

        Returns
        -------
        comparison : Comparison
            Comparison of recordings instead of windows.

        Raises
        ------
        ValueError
            If the target, subject or fold of a recording varies.
        """
        check_same_length(y=self.y, recordings=recordings)
        names, first, index, counts = np.unique(
            as_names("recordings", recordings, "a recording"),
            return_index=True, return_inverse=True, return_counts=True,
        )  # fmt: skip
        fold_of = np.full(len(self.y), -1)
        for i, rows in enumerate(self.folds):
            fold_of[rows] = i
        for what, values in (("target", self.y), ("subject", self.groups),
                             ("fold", fold_of)):  # fmt: skip
            varies = (values != values[first][index]).reshape(len(values), -1)
            rows = np.flatnonzero(varies.any(axis=1))
            if len(rows):
                raise ValueError(
                    "all windows of a recording must have the same target, subject and"
                    f" fold, but the {what} of {names[index[rows[0]]].item()!r} varies"
                )

        order, starts = np.argsort(index, kind="stable"), np.cumsum(counts) - counts

        def mean(y_pred: Floats) -> Floats:
            sums = np.add.reduceat(y_pred[..., order, :], starts, axis=-2)
            return sums / counts[:, None]

        fold_of = fold_of[first]
        return dataclasses.replace(
            self,
            y=self.y[first],
            groups=self.groups[first],
            folds=[np.flatnonzero(fold_of == i) for i in range(len(self.folds))],
            y_pred={name: mean(p) for name, p in self.y_pred.items()},
            y_pred_by_epoch={n: mean(p) for n, p in self.y_pred_by_epoch.items()},
        )

    def plot(self) -> Figure:
        """Plot the losses of subjects with every estimator, and their differences.

        Returns
        -------
        figure : matplotlib.figure.Figure
            Above, for up to six estimators, a line for each subject from the reference
            to the other estimator: solid where its loss falls, dashed where it rises,
            and the mean in black. Below, each subject's difference, their mean and its
            95 % interval. The mean is filled where ``p_holm`` is below 0.05. Nothing is
            shown.
        """
        return _plots.plot_losses(self)

    def plot_by_epoch(self) -> Figure:
        """Plot the mean loss of the test folds after each epoch.

        Returns
        -------
        figure : matplotlib.figure.Figure
            A curve for each estimator, and for up to three its 95 % interval over
            subjects. Nothing is shown.
        """
        return _plots.plot_curves(self)

    def sentences(self) -> list[str]:
        """Describe the results in words.

        Returns
        -------
        sentences : list of str
            First, which estimators have a lower mean loss than the dummy predictor.
            Then the difference, its interval and its significance for each estimator
            except the reference and the dummy predictor.
        """
        return _page.sentences(self)

    def _repr_html_(self) -> str:
        return _page.short(self)

    def report(self, path: str | os.PathLike[str], title: str = "Comparison") -> None:
        """Write a self-contained HTML page.

        It holds the sentences, the figures, scores and differences. Scores by fold and
        subject, settings and versions are in collapsed sections. Of estimators of the
        same class, the settings are those that differ.

        Parameters
        ----------
        path : path-like
            Path that ends in ``.html``. An existing file is overwritten.
        title : str, default="Comparison"
            Title of the page.
        """
        _page.write(self, path, title)


def stored(y_pred: Any, classes: NDArray[Any] | None) -> BaseEstimator:
    """Make an estimator that returns stored predictions of the windows X."""
    return (_Regressor if classes is None else _Classifier)(y_pred, classes)


class _Stored(BaseEstimator):
    def __init__(self, y_pred: Any, classes: Any) -> None:
        self.y_pred = y_pred
        self.classes_ = classes


class _Regressor(RegressorMixin, _Stored):
    def predict(self, X: Any) -> Any:
        y_pred = self.y_pred[X]
        return y_pred[:, 0] if y_pred.shape[1] == 1 else y_pred


class _Classifier(ClassifierMixin, _Stored):
    def predict_proba(self, X: Any) -> Any:
        return self.y_pred[X]

    def predict(self, X: Any) -> Any:
        return self.classes_[self.y_pred[X].argmax(axis=1)]
