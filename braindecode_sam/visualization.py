"""Pictures of a training history and of cross-validated scores."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

LOSSES = {"train_loss": "training", "valid_loss": "validation"}
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
