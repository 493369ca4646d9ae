"""Figures of a training history and of held-out losses."""

from __future__ import annotations

import textwrap
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from matplotlib.ticker import MaxNLocator

LOSSES = {"train_loss": "training", "valid_loss": "validation"}
MOST_SLOPES = 6
MOST_INTERVALS = 3
MEASURED = {
    "sharpness": ("C2", "Sharpness (loss)"),
    "rho": ("C3", "rho (weights)"),
}


def plot_history(net: Any, ax: Any = None) -> Figure:
    """Plot the losses and, in panels below, sharpness and rho by epoch.

    Parameters
    ----------
    net : EEGRegressor or skorch.history.History
        A fitted net, or its history.
    ax : matplotlib.axes.Axes, optional
        Where to draw; default a new figure. It keeps the losses, and the other panels
        take the lower part of its space.

    Returns
    -------
    figure : matplotlib.figure.Figure
        The figure drawn in. Sharpness has a panel where the history holds it, and rho
        where it changes. Nothing is shown.

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
    ...     history.record("sharpness", 0.1 * (epoch + 1))
    >>> [ax.get_ylabel() for ax in plot_history(history).axes]
    ['Loss', 'Sharpness (loss)']
    """
    history = getattr(net, "history", net)
    if not len(history):
        raise ValueError("the history is empty; fit the net first")
    epochs = np.arange(1, len(history) + 1)
    measured = [key for key in MEASURED if _is_worth_a_panel(history, key)]
    ax, *below = _stacked(_axes(ax), len(measured))
    for key, label in LOSSES.items():
        if key in history[-1]:
            ax.plot(epochs, history[:, key], marker="o", label=label)
    ax.set_ylabel("Loss")
    ax.legend(loc="best", fontsize="small")
    for panel, key in zip(below, measured, strict=True):
        color, label = MEASURED[key]
        panel.plot(epochs, history[:, key], marker=".", color=color, label=key)
        panel.set_ylabel(label)
    for panel in (ax, *below):
        panel.tick_params(labelbottom=False)
    lowest = [ax, *below][-1]
    lowest.tick_params(labelbottom=True)
    lowest.set_xlabel("Epoch")
    lowest.xaxis.set_major_locator(MaxNLocator(integer=True))
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


def _is_worth_a_panel(history: Any, key: str) -> bool:
    if key not in history[-1]:
        return False
    return key != "rho" or len(set(history[:, key])) > 1


def _stacked(ax: Axes, n_below: int) -> list[Axes]:
    """Divide the space of axes into these, above, and others with the same x-axis."""
    figure: Any = ax.figure
    spec = ax.get_subplotspec()
    ratios = [2] + [1] * n_below
    if n_below == 0:
        return [ax]
    if spec is None:
        box = ax.get_position()
        grid: Any = GridSpec(
            len(ratios), 1, figure, left=box.x0, right=box.x1, bottom=box.y0,
            top=box.y1, height_ratios=ratios,
        )  # fmt: skip
    else:
        grid = spec.subgridspec(len(ratios), 1, height_ratios=ratios)
    ax.set_subplotspec(grid[0])
    return [ax, *(figure.add_subplot(part, sharex=ax) for part in list(grid)[1:])]
