"""Result of a comparison: scores, paired differences, figures and a report."""

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
    smallest_p_value,
    subject_means,
    window_losses,
)


@dataclasses.dataclass(frozen=True, eq=False)
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
        if by not in self._scores:
            self._scores[by] = self._score_all(by)
        return self._scores[by].copy()

    @functools.cached_property
    def _scores(self) -> dict[str, pd.DataFrame]:
        return {}  # cache by the argument of `scores`

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
        """A :class:`PairedComparison` of each estimator with the reference, by name."""
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

        def mean(y_pred: Floats) -> Floats:
            windows = np.moveaxis(y_pred, -2, 0)
            sums = np.zeros((len(names), *windows.shape[1:]))
            np.add.at(sums, index, windows)
            return np.moveaxis((sums.T / counts).T, 0, -2)

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
        return _plots.plot_losses(
            self.subject_losses, self.comparisons(), _page.label(self.loss_name),
            self.dummy,
        )  # fmt: skip

    def plot_by_epoch(self) -> Figure:
        """Plot the mean loss of the test folds after each epoch.

        Returns
        -------
        figure : matplotlib.figure.Figure
            A curve for each estimator, and for up to three its 95 % interval over
            subjects. Nothing is shown.
        """
        return _plots.plot_curves(
            self.by_epoch(), _page.label(self.loss_name),
            float(self.subject_losses[self.dummy].mean()),
        )  # fmt: skip

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
        subject, the settings that differ between estimators, and versions are folded.

        Parameters
        ----------
        path : path-like
            Path that ends in ``.html``. An existing file is overwritten.
        title : str, default="Comparison"
            Title of the page.
        """
        _page.write(self, path, title)

    def warn(self) -> None:
        """Warn if estimators are no better than the dummy, or subjects are too few."""
        losses = self.subject_losses.mean()
        if worse := _page.no_better_than_dummy(self):
            listed = ", ".join(f"{name} {losses[name]:.3g}" for name in worse)
            warnings.warn(
                f"no better than the dummy predictor, whose {self.loss_name} is"
                f" {losses[self.dummy]:.3g}: {listed}",
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
    """Make an estimator that returns stored predictions."""
    kind = _StoredRegressor if classes is None else _StoredClassifier
    return kind(y_pred, classes)


class _StoredRegressor(RegressorMixin, BaseEstimator):
    """Returns stored predictions; X are indices of windows."""

    def __init__(self, y_pred: Any, classes: Any) -> None:
        self.y_pred = y_pred
        self.classes_ = classes

    def predict(self, X: Any) -> Any:
        y_pred = self.y_pred[X]
        return y_pred[:, 0] if y_pred.shape[1] == 1 else y_pred


class _StoredClassifier(ClassifierMixin, BaseEstimator):
    """Returns stored predictions; X are indices of windows."""

    def __init__(self, y_pred: Any, classes: Any) -> None:
        self.y_pred = y_pred
        self.classes_ = classes

    def predict_proba(self, X: Any) -> Any:
        return self.y_pred[X]

    def predict(self, X: Any) -> Any:
        return self.classes_[self.y_pred[X].argmax(axis=1)]
