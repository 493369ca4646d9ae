"""Pictures of a training history and of cross-validated scores."""

from __future__ import annotations

import textwrap
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

LOSSES = {"train_loss": "training", "valid_loss": "validation"}
MOST_SLOPES = 6
MOST_INTERVALS = 3
MEASURED = {"sharpness": "C2", "rho": "C3"}


def plot_history(net: Any, ax: Any = None) -> Figure:
    """Plot losses, and below a second axis sharpness and rho, by epoch.

    Parameters
    ----------
    net : EEGRegressor or skorch.history.History
        A fitted net, or its history.
    ax : matplotlib.axes.Axes, optional
        Where to draw; default a new figure.

    Returns
    -------
    figure : matplotlib.figure.Figure
        The figure drawn in. Nothing is shown.

    Raises
    ------
    ValueError
        If the history is empty.

    Examples
    --------
    >>> from skorch.history import History
    >>> from braindecode_sam.visualization import plot_history
    >>> history = History()
    >>> for epoch in range(3):
    ...     history.new_epoch()
    ...     history.record("train_loss", 1 / (epoch + 1))
    >>> plot_history(history).axes[0].get_ylabel()
    'Loss'
    """
    history = getattr(net, "history", net)
    if not len(history):
        raise ValueError("the history is empty; fit the net first")
    ax = _axes(ax)
    epochs = np.arange(1, len(history) + 1)
    for key, label in LOSSES.items():
        _plot_known(ax, epochs, history, key, marker="o", label=label)
    ax.set(xlabel="Epoch", ylabel="Loss")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    measured = [key for key in MEASURED if key in history[-1]]
    if measured:
        right = ax.twinx()
        right.set_ylabel("Sharpness (loss), rho (weights)")
        for key in measured:
            _plot_known(
                right, epochs, history, key, ls="--", marker=".", color=MEASURED[key]
            )
    _shared_legend(ax)
    return ax.figure


def plot_fold_scores(
    scores: ArrayLike,
    baseline: ArrayLike,
    ax: Any = None,
    *,
    metric: str = "NRMSE (standard deviation)",
) -> Figure:
    """Plot the score of each fold beside the mean predictor's.

    Parameters
    ----------
    scores : array-like of shape (n_folds,)
        Errors, lower is better; negate what ``cross_validate`` returns for a scorer
        that does.
    baseline : float or array-like of shape (n_folds,)
        The mean predictor's score, for all folds or for each.
    ax : matplotlib.axes.Axes, optional
        Where to draw; default a new figure.
    metric : str
        Label of the score's axis, with its unit.

    Returns
    -------
    figure : matplotlib.figure.Figure
        The figure drawn in. Nothing is shown.

    Raises
    ------
    ValueError
        If there are not as many baselines as folds.

    Examples
    --------
    >>> from braindecode_sam.visualization import plot_fold_scores
    >>> plot_fold_scores([0.9, 1.1, 0.95], baseline=1.0).axes[0].get_xlabel()
    'Fold'
    """
    scores = np.asarray(scores, dtype=float)
    baseline = np.asarray(baseline, dtype=float)
    if baseline.shape not in ((), scores.shape):
        raise ValueError(
            f"baseline must be a number or hold {len(scores)} of them, one a fold, got"
            f" the shape {baseline.shape}"
        )
    ax = _axes(ax)
    folds = np.arange(1, len(scores) + 1)
    ax.bar(folds, scores, width=0.6, color="C0", label="net")
    line = np.broadcast_to(baseline, scores.shape)
    ax.hlines(line, folds - 0.4, folds + 0.4, color="k", label="mean predictor")
    ax.axhline(scores.mean(), color="C0", ls=":", label="net, mean over folds")
    ax.set(xlabel="Fold", ylabel=metric, xticks=folds)
    ax.set_ylim(0, 1.25 * max(scores.max(), line.max()))
    ax.legend(loc="upper center", ncols=3, frameon=False, fontsize="small")
    return ax.figure


def plot_paired_losses(
    losses: Any, comparisons: Any, *, loss: str = "loss", dummy: str | None = None
) -> Figure:
    """Plot the loss of each subject with every estimator, and the paired differences.

    Parameters
    ----------
    losses : pandas.DataFrame of shape (n_subjects, n_estimators)
        Loss of each subject; the first column is the reference.
    comparisons : pandas.DataFrame
        Indexed by the other estimators, with the columns `difference`, `ci_low`,
        `ci_high` and `p_holm`.
    loss : str, default="loss"
        Label of the loss.
    dummy : str, optional
        The dummy predictor, drawn as a line in the upper row only.

    Returns
    -------
    figure : matplotlib.figure.Figure
        Above, for up to six estimators, a line for each subject from the reference to
        the other estimator: blue where its loss falls, orange where it rises, the mean
        in black. Below, each subject's difference, their mean and its interval; the
        mean is filled where it is significant after correction. Nothing is shown.

    Examples
    --------
    >>> import pandas as pd
    >>> from braindecode_sam.visualization import plot_paired_losses
    >>> losses = pd.DataFrame({"AdamW": [0.7, 0.9], "SAM": [0.6, 0.7]})
    >>> comparisons = pd.DataFrame(
    ...     {"difference": -0.15, "ci_low": -0.2, "ci_high": -0.1, "p_holm": 0.5},
    ...     index=["SAM"])
    >>> plot_paired_losses(losses, comparisons).axes[1].get_xlabel()
    'loss, difference to AdamW'
    """
    reference = losses.columns[0]
    others = [name for name in comparisons.index if name != dummy]
    n_slopes = len(others) if len(others) <= MOST_SLOPES else 0
    height = 0.45 * len(others) + 1.2
    figure = plt.figure(
        figsize=(max(6.4, 1.6 * n_slopes), height + 3.2 * bool(n_slopes)),
        layout="constrained",
    )
    ratios = [3.2, height] if n_slopes else [height]
    grid = figure.add_gridspec(len(ratios), max(n_slopes, 1), height_ratios=ratios)
    first = None
    for i, name in enumerate(others[:n_slopes]):
        ax = figure.add_subplot(grid[0, i], sharey=first)
        first = first or ax
        _plot_slopes(ax, losses[reference], losses[name], (reference, name))
        if dummy is not None:
            level = losses[dummy].mean()
            ax.axhline(level, color="0.4", ls=":", label=_shown(dummy))
        ax.tick_params(labelleft=i == 0)
    if first is not None:
        first.set_ylabel(f"{loss}\nof each subject")
        if dummy is not None:
            first.legend(fontsize="small", frameon=False)
    ax = figure.add_subplot(grid[-1, :])
    _plot_differences(ax, losses, comparisons, others)
    ax.set_xlabel(f"{loss}, difference to {_shown(reference)}")
    return figure


def _plot_slopes(ax: Axes, before: Any, after: Any, names: tuple[str, str]) -> None:
    for a, b in zip(before, after, strict=True):
        color = "C0" if b < a else "C1"
        ax.plot([0, 1], [a, b], color=color, lw=0.8, alpha=0.7)
    ax.plot([0, 1], [before.mean(), after.mean()], "ko-", lw=2)
    ax.set(xticks=[0, 1], xlim=(-0.3, 1.3))
    ax.set_xticklabels([_shown(name) for name in names], rotation=20)


def _plot_differences(ax: Axes, losses: Any, comparisons: Any, names: Any) -> None:
    for row, name in enumerate(reversed(names)):
        found = comparisons.loc[name]
        d = losses[name] - losses.iloc[:, 0]
        ax.plot(d, np.full(len(d), row), "|", color="0.6", ms=8)
        color = "C0" if found["difference"] < 0 else "C1"
        ax.plot([found["ci_low"], found["ci_high"]], [row, row], color=color, lw=3)
        is_significant = found["p_holm"] < 0.05
        face = color if is_significant else "w"
        ax.plot(found["difference"], row, "o", color=color, mfc=face, ms=8)
    ax.axvline(0, color="0.4", ls=":")
    ax.set_yticks(np.arange(len(names)), [_shown(n) for n in reversed(names)])
    ax.set_ylim(-0.6, len(names) - 0.4)


def plot_score_by_epoch(
    curves: Any, *, loss: str = "loss", dummy: float | None = None, ax: Any = None
) -> Figure:
    """Plot the held-out loss after each epoch, a curve for each estimator.

    Parameters
    ----------
    curves : pandas.DataFrame
        Columns `estimator`, `epoch`, `loss`, `loss_low`, `loss_high`.
    loss : str, default="loss"
        Label of the loss.
    dummy : float, optional
        The dummy predictor's loss, drawn as a line.
    ax : matplotlib.axes.Axes, optional
        Where to draw; default a new figure.

    Returns
    -------
    figure : matplotlib.figure.Figure
        The figure drawn in. Intervals are drawn for up to three curves, which they
        would hide otherwise.

    Examples
    --------
    >>> import pandas as pd
    >>> from braindecode_sam.visualization import plot_score_by_epoch
    >>> curves = pd.DataFrame(
    ...     {"estimator": "SAM", "epoch": [1, 2], "loss": [0.7, 0.6],
    ...      "loss_low": [0.6, 0.5], "loss_high": [0.8, 0.7]})
    >>> plot_score_by_epoch(curves).axes[0].get_xlabel()
    'Epoch'
    """
    ax = _axes(ax)
    names = list(dict.fromkeys(curves["estimator"]))
    colors = plt.get_cmap("tab10" if len(names) <= 10 else "tab20")
    for i, name in enumerate(names):
        mine, color = curves[curves["estimator"] == name], colors(i % colors.N)
        ax.plot(mine["epoch"], mine["loss"], color=color, label=_shown(name))
        if len(names) <= MOST_INTERVALS:
            ax.fill_between(
                mine["epoch"], mine["loss_low"], mine["loss_high"], color=color,
                alpha=0.15, lw=0,
            )  # fmt: skip
    if dummy is not None:
        ax.axhline(dummy, color="0.4", ls=":", label="dummy predictor")
    ax.set(xlabel="Epoch", ylabel=f"{loss}\nof held-out subjects")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend(fontsize="small", frameon=False)
    return ax.figure


def _shown(name: str) -> str:
    """Give a name as text: not as a formula, nor as a label that is left out."""
    name = name.replace("$", r"\$")
    return textwrap.fill(f" {name}" if name.startswith("_") else name, 24)


def _axes(ax: Any) -> Any:
    return plt.subplots(layout="constrained")[1] if ax is None else ax


def _plot_known(
    ax: Axes,
    epochs: NDArray[np.int64],
    history: Any,
    key: str,
    label: str | None = None,
    **style: Any,
) -> None:
    if key in history[-1]:
        ax.plot(epochs, history[:, key], label=label or key, **style)


def _shared_legend(ax: Axes) -> None:
    handles, labels = [], []
    for axes in (a for a in ax.figure.axes if a.bbox.bounds == ax.bbox.bounds):
        more_handles, more_labels = axes.get_legend_handles_labels()
        handles += more_handles
        labels += more_labels
    ax.legend(handles, labels, loc="best", fontsize="small")
