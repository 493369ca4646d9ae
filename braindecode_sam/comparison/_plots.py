"""Figures of a comparison. Nothing is shown."""

from __future__ import annotations

import textwrap
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from braindecode_sam.comparison._statistics import ALPHA

MOST_SLOPES = 6
MOST_INTERVALS = 3
DUMMY_LINE: dict[str, Any] = {"color": "0.4", "ls": ":"}


def plot_losses(losses: Any, comparisons: Any, loss: str, dummy: str) -> Figure:
    """Plot the loss of each subject with every estimator, and the paired differences.

    `losses` has a row for each subject and a column for each estimator, the reference
    first. `comparisons` has a row for each other one.
    """
    reference = losses.columns[0]
    others = [name for name in comparisons.index if name != dummy]
    n_slopes = len(others) if len(others) <= MOST_SLOPES else 0
    height = 0.45 * len(others) + 1.2
    figure = plt.figure(
        figsize=(max(6.4, 2 * n_slopes), height + 3.6 * bool(n_slopes)),
        layout="constrained",
    )
    ratios = [3.2, height] if n_slopes else [height]
    grid = figure.add_gridspec(len(ratios), max(n_slopes, 1), height_ratios=ratios)
    first = None
    labelled: dict[str, Any] = {}
    for i, name in enumerate(others[:n_slopes]):
        ax = figure.add_subplot(grid[0, i], sharey=first)
        first = first or ax
        _plot_slopes(ax, losses[reference], losses[name])
        names = [_shown(reference, 12), _shown(name, 12)]
        ax.set_xticks([0, 1], names, fontsize="small")
        ax.axhline(losses[dummy].mean(), label=_shown(dummy), **DUMMY_LINE)
        ax.tick_params(labelleft=i == 0)
        handles, labels = ax.get_legend_handles_labels()
        labelled |= dict(zip(labels, handles, strict=True))
    if first is not None:
        first.set_ylabel(f"{loss}\nof each subject")
        figure.legend(
            labelled.values(), labelled.keys(), loc="outside upper center",
            ncols=len(labelled), fontsize="small", frameon=False,
        )  # fmt: skip
    ax = figure.add_subplot(grid[-1, :])
    _plot_differences(ax, losses, comparisons, others)
    ax.set_xlabel(f"{loss}, difference to {_shown(reference)}")
    return figure


def _plot_slopes(ax: Axes, before: Any, after: Any) -> None:
    pairs = zip(before, after, strict=True)
    for a, b in sorted(pairs, key=lambda pair: pair[1] >= pair[0]):
        label, color, style = (
            ("lower loss", "C0", "-") if b < a else ("higher loss", "C1", "--")
        )
        ax.plot([0, 1], [a, b], style, color=color, lw=0.8, alpha=0.8, label=label)
    mean = [before.mean(), after.mean()]
    ax.plot([0, 1], mean, "o-", color="k", lw=2, label="mean")
    ax.set_xlim(-0.3, 1.3)


def _plot_differences(ax: Axes, losses: Any, comparisons: Any, names: Any) -> None:
    for row, name in enumerate(reversed(names)):
        found = comparisons.loc[name]
        d = losses[name] - losses.iloc[:, 0]
        ax.plot(d, np.full(len(d), row), "|", color="0.6", ms=8)
        color = "C0" if found["difference"] < 0 else "C1"
        ax.plot([found["ci_low"], found["ci_high"]], [row, row], color=color, lw=3)
        face = color if found["p_holm"] < ALPHA else "w"
        ax.plot(found["difference"], row, "o", color=color, mfc=face, ms=8)
    ax.axvline(0, **DUMMY_LINE)
    ax.set_yticks(np.arange(len(names)), [_shown(n) for n in reversed(names)])
    ax.set_ylim(-0.6, len(names) - 0.4)


def plot_curves(curves: Any, loss: str, dummy: float) -> Figure:
    """Plot the held-out loss after each epoch, a curve for each estimator."""
    figure, ax = plt.subplots(layout="constrained")
    names = list(dict.fromkeys(curves["estimator"]))
    colors = plt.get_cmap("tab10" if len(names) <= 10 else "tab20")
    for i, name in enumerate(names):
        mine, color = curves[curves["estimator"] == name], colors(i % colors.N)
        marker = "" if len(mine) > 1 else "o"
        ax.plot(
            mine["epoch"], mine["loss"], marker=marker, color=color, label=_shown(name)
        )
        if len(names) <= MOST_INTERVALS:  # they would hide more curves
            ax.fill_between(
                mine["epoch"], mine["loss_low"], mine["loss_high"], color=color,
                alpha=0.15, lw=0,
            )  # fmt: skip
    ax.axhline(dummy, label="dummy predictor", **DUMMY_LINE)
    ax.set(xlabel="Epoch", ylabel=f"{loss}\nof held-out subjects")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend(fontsize="small", frameon=False)
    return figure


def _shown(name: str, width: int = 24) -> str:
    """Give a name as text: not as a formula, nor as a label that is left out."""
    name = name.replace("$", r"\$")
    return textwrap.fill(f" {name}" if name.startswith("_") else name, width)
