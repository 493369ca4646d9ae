"""Draw the figure that README.rst and the landing page show.

``python docs/figures/overview.py`` writes ``overview.png`` next to this file.
"""

import os
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from study import COLORS, DUMMIES, LOSSES, QUESTIONS, read

SPEED = Path("../../benchmarks/results/speed")
SHAPES = {
    "(32, 64, 500)": ("C0", "32 windows, 64 channels, 500 samples"),
    "(16, 22, 1000)": ("#9ecae1", "16 windows, 22 channels, 1000 samples"),
}
AT_LEAST = 1.3  # times faster, to be drawn
HIGHEST = 30  # in percent, where the panel of the differences ends


def draw_models(ax):
    """Draw how many times faster models train after ``speed_up``."""
    table = pd.read_csv(SPEED / "speed_up.csv").set_index("model")
    ratios = table[[f"{shape} times faster" for shape in SHAPES]]
    ratios = ratios[ratios.max(axis=1) >= AT_LEAST]
    ratios = ratios.sort_values(ratios.columns[0], ascending=False)
    for i, (column, (color, label)) in enumerate(
        zip(ratios, SHAPES.values(), strict=True)
    ):
        rows = np.arange(len(ratios)) + 0.4 * i - 0.2
        bars = ax.barh(rows, ratios[column], 0.4, color=color, label=label)
        ax.bar_label(bars, fmt="%.3g", padding=3, fontsize=7)
    ax.axvline(1, color="0.2", lw=1)
    ax.set_yticks(range(len(ratios)), ratios.index, fontsize=8)
    ax.set_ylim(len(ratios) - 0.5, -0.5)
    ax.set_xlabel("Times faster than braindecode's model (AdamW, one CPU thread)")
    ax.set_title("speed_up(model)", fontsize=11)
    ax.legend(frameon=False, loc="lower right", fontsize=8)


def draw_questions(ax):
    """Draw SAM's difference to AdamW in percent of AdamW's loss, and the dummy's."""
    for y, question in enumerate(QUESTIONS):
        reference = read(question, "rho", "scores").set_index("estimator")["loss"]
        table = read(question, "rho", "comparisons").set_index("estimator")
        percent = 100 * table / reference["AdamW"]
        sam, dummy = percent.loc["SAM rho=0.1"], percent.loc["dummy", "difference"]
        significant = table.loc["SAM rho=0.1", "p_holm"] < 0.05
        color = COLORS["SAM rho=0.1"]
        ax.plot([sam["ci_low"], sam["ci_high"]], [y, y], color=color, lw=2)
        face = color if significant else "w"
        (point,) = ax.plot(sam["difference"], y, "o", color=color, mfc=face)
        if dummy < HIGHEST:
            (cross,) = ax.plot(dummy, y, "kx")
        else:
            text = f"{DUMMIES[question in LOSSES]} +{dummy:.0f} %"
            ax.annotate(text, (HIGHEST, y + 0.3), fontsize=7, ha="right")
    ax.axvline(0, color="0.45", lw=1, zorder=0)
    ax.set_yticks(range(len(QUESTIONS)), list(QUESTIONS.values()))
    ax.set_ylim(len(QUESTIONS) - 0.5, -0.5)
    ax.set_xlim(right=HIGHEST)
    ax.set_xlabel("Loss on held-out data, difference to AdamW in %\n(left is better)")
    ax.set_title("Does SAM help?", fontsize=11)
    ax.legend(
        [point, cross], ["SAM (filled: p < 0.05)", "class frequencies"],
        frameon=False, loc="upper right", fontsize=8,
    )  # fmt: skip


def main():
    """Draw both panels."""
    os.chdir(Path(__file__).parent)
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 5.4), layout="constrained")
    draw_models(left)
    draw_questions(right)
    for ax in (left, right):
        ax.spines[["top", "right"]].set_visible(False)
    figure.savefig("overview.png", dpi=130)


if __name__ == "__main__":
    main()
