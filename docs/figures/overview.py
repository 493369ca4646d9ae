"""Draw the figure that README.rst and the landing page show.

``python docs/figures/overview.py`` writes ``overview.png`` next to this file.
"""

import os
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from study import draw_curves

SPEED = Path("../../benchmarks/results/speed")
COLORS = {
    "EEGNeX, SAM": "0.75",
    "EEGNeX, AdamW": "0.75",
    "FastEEGNeX, SAM": "C0",
    "FastEEGNeX, AdamW": "0.45",
}


def draw_steps(ax):
    """Draw the time of a training step on a logarithmic scale."""
    table = pd.read_csv(SPEED / "training_step.csv")
    table = table[table["windows"] == "challenge_1"].set_index("training")
    table = table.loc[list(COLORS)]
    bars = ax.barh(table.index, table["ms per step"], color=list(COLORS.values()))
    labels = [
        f"{ms / 1000:.2g} s" if ms > 1000 else f"{ms:.0f} ms, {ratio:.0f}x faster"
        for ms, ratio in zip(table["ms per step"], table["speed-up"], strict=True)
    ]
    ax.bar_label(bars, labels, padding=4)
    ax.set(
        xscale="log", xlim=(20, 40000), xlabel="ms per training step, one CPU thread"
    )
    ax.invert_yaxis()
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_title("Exact, fast models", fontsize=11)


def main():
    """Draw both panels."""
    os.chdir(Path(__file__).parent)
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    names = ("AdamW", "SAM rho=0.1")
    draw_curves(left, "rest-or-arithmetic", "rho", names, bands=True)
    left.set_title("Rest or mental arithmetic: held-out subjects", fontsize=11)
    left.legend(frameon=False)
    draw_steps(right)
    figure.savefig("overview.png", dpi=130)


if __name__ == "__main__":
    main()
