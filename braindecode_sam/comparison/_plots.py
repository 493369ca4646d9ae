"""Figures of a comparison. Nothing is shown."""

from __future__ import annotations

import textwrap
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from braindecode_sam.comparison._statistics import ALPHA, label_of

MOST_SLOPES = 6
MOST_INTERVALS = 3
DUMMY_LINE: dict[str, Any] = {"color": "0.4", "ls": ":"}


def plot_losses(comparison: Any) -> Figure:
    """Plot the loss of each subject with every estimator, and the paired differences.

    A single estimator is compared with the dummy predictor, and others with the first.
    """
    losses, table = comparison.subject_losses, comparison.comparisons()
    loss, dummy = label_of(comparison.loss_name), comparison.dummy
    reference = comparison.reference
    others = [name for name in table.index if name != dummy] or [dummy]
    n_slopes = len(others) if len(others) <= MOST_SLOPES else 0
    height = 0.45 * len(others) + 1.2
    figure = plt.figure(
        figsize=(max(6.4, 2 * n_slopes), height + 3.6 * bool(n_slopes)),
        layout="constrained",
    )
    ratios = [3.2, height] if n_slopes else [height]
    grid = figure.add_gridspec(len(ratios), max(n_slopes, 1), height_ratios=ratios)
    first = None
    handles: dict[str, Any] = {}
    for i, name in enumerate(others[:n_slopes]):
        ax = figure.add_subplot(grid[0, i], sharey=first)
        first = first or ax
        _plot_slopes(ax, losses[reference], losses[name])
        names = [_shown(reference, 12), _shown(name, 12)]
        ax.set_xticks([0, 1], names, fontsize="small")
        ax.axhline(losses[dummy].mean(), label=_shown(dummy), **DUMMY_LINE)
        ax.tick_params(labelleft=i == 0)
        handles |= dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
    if first is not None:
        first.set_ylabel(f"{loss}\nof each subject")
        labels = sorted(handles)
        figure.legend(
            [handles[name] for name in labels], labels, loc="outside upper center",
            ncols=len(labels), fontsize="small", frameon=False,
        )  # fmt: skip
    ax = figure.add_subplot(grid[-1, :])
    for row, name in enumerate(reversed(others)):
        found = table.loc[name]
        d = losses[name] - losses[reference]
        ax.plot(d, np.full(len(d), row), "|", color="0.6", ms=8)
        color = "C0" if found["difference"] < 0 else "C1"
        ax.plot([found["ci_low"], found["ci_high"]], [row, row], color=color, lw=3)
        face = color if found["p_holm"] < ALPHA else "w"
        ax.plot(found["difference"], row, "o", color=color, mfc=face, ms=8)
    ax.axvline(0, **DUMMY_LINE)
    ax.set_yticks(np.arange(len(others)), [_shown(n) for n in reversed(others)])
    ax.set_ylim(-0.6, len(others) - 0.4)
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


def plot_curves(comparison: Any) -> Figure:
    """Plot the held-out loss after each epoch, a curve for each estimator."""
    curves = comparison.by_epoch()
    figure, ax = plt.subplots(layout="constrained")
    names = list(dict.fromkeys(curves["estimator"]))
    others = [name for name in names if name != comparison.reference]
    colors = plt.get_cmap("tab10" if len(others) <= 10 else "tab20")
    color_of = {name: colors(i % colors.N) for i, name in enumerate(others)}
    for name in names:
        mine, color = curves[curves["estimator"] == name], color_of.get(name, "0.45")
        marker = "" if len(mine) > 1 else "o"
        ax.plot(
            mine["epoch"], mine["loss"], marker=marker, color=color, label=_shown(name)
        )
        if len(names) <= MOST_INTERVALS:  # they would hide more curves
            ax.fill_between(
                mine["epoch"], mine["loss_low"], mine["loss_high"], color=color,
                alpha=0.15, lw=0,
            )  # fmt: skip
    dummy = comparison.subject_losses[comparison.dummy].mean()
    ax.axhline(dummy, label="dummy predictor", **DUMMY_LINE)
    loss = label_of(comparison.loss_name)
    ax.set(xlabel="Epoch", ylabel=f"{loss}\nof held-out subjects")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend(fontsize="small", frameon=False)
    return figure


def _shown(name: str, width: int = 24) -> str:
    """Give a name as text: not as a formula, nor as a label that is left out."""
    name = name.replace("$", r"\$")
    return textwrap.fill(f" {name}" if name.startswith("_") else name, width)
