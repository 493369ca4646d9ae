"""Figure of a training history."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from matplotlib.ticker import MaxNLocator

LOSSES = {"train_loss": "training", "valid_loss": "validation"}
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
    measured = [
        key
        for key in MEASURED
        if key in history[-1] and (key != "rho" or len(set(history[:, key])) > 1)
    ]
    if ax is None:
        ax = plt.subplots(layout="constrained")[1]
    panels = ax, *below = _stacked(ax, len(measured))
    for key, label in LOSSES.items():
        if key in history[-1]:
            ax.plot(epochs, history[:, key], marker="o", label=label)
    ax.set_ylabel("Loss")
    ax.legend(loc="best", fontsize="small")
    for panel, key in zip(below, measured, strict=True):
        color, label = MEASURED[key]
        panel.plot(epochs, history[:, key], marker=".", color=color, label=key)
        panel.set_ylabel(label)
    for panel in panels:
        panel.tick_params(labelbottom=panel is panels[-1])
    panels[-1].set_xlabel("Epoch")
    panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    return ax.figure


def _stacked(ax: Axes, n_below: int) -> list[Axes]:
    """Divide the space of axes into these, above, and others with the same x-axis."""
    if n_below == 0:
        return [ax]
    figure: Any = ax.figure
    spec = ax.get_subplotspec()
    ratios = [2] + [1] * n_below
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
