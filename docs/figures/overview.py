"""Draw the figure that README.rst and the landing page show.

``python docs/figures/overview.py`` writes ``overview.png`` beside this file.
"""

from pathlib import Path

import matplotlib.pyplot as plt
from study import draw_curves

# benchmarks/training_step.py --threads 1 --no-compile, Challenge 1; see docs/speed.rst.
STEPS = {
    "EEGNeX, SAM": 7732.59,
    "EEGNeX, AdamW": 3898.54,
    "FastEEGNeX, SAM": 132.06,
    "FastEEGNeX, AdamW": 73.33,
}


def draw_steps(ax):
    """Draw the time of a training step on a logarithmic scale."""
    colors = ["0.75", "0.75", "C0", "0.45"]
    bars = ax.barh(list(STEPS), list(STEPS.values()), color=colors)
    base = STEPS["EEGNeX, AdamW"]
    labels = [
        f"{ms / 1000:.2g} s" if ms > 1000 else f"{ms:.0f} ms, {base / ms:.0f}x faster"
        for ms in STEPS.values()
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
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    draw_curves(left, "rest-or-arithmetic", ("AdamW", "SAM rho=0.1"))
    left.set_title("Rest or mental arithmetic: held-out subjects", fontsize=11)
    left.legend(frameon=False)
    draw_steps(right)
    figure.savefig(Path(__file__).with_suffix(".png"), dpi=130)


if __name__ == "__main__":
    main()
