"""Draw EEGNeX's first three blocks in the published and in the cheaper order."""

import matplotlib.pyplot as plt
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

BIG, SMALL, EDGE = "#f2a65a", "#bcd9ee", "#444444"
# Filters, taps and spatial outputs of EEGNeX, for the multiply-adds of a window.
CHANNELS, SAMPLES, FIRST, SECOND, TAPS, OUTPUTS = 72, 500, 8, 32, 64, 64
IN_TIME = FIRST * TAPS + SECOND * FIRST * TAPS
PUBLISHED = CHANNELS * SAMPLES * (IN_TIME + OUTPUTS)
LINEAR_STEM = SAMPLES * OUTPUTS * (CHANNELS + 2 * TAPS - 1)
WINDOWS, SIGNALS = ("windows\n72 × 500", 0.9, SMALL), ("64 × 500", 0.9, SMALL)
STOCK = [WINDOWS, ("8 × 72 × 500", 1.6, BIG), ("32 × 72 × 500", 2.4, BIG), SIGNALS]
STOCK_STEPS = ["8 filters\nin time, BN", "8 × 32 filters\nin time, BN"]
STOCK_STEPS += ["spatial\nfilters"]
STEM = [WINDOWS, SIGNALS, SIGNALS]
STEM_STEPS = ["spatial\nfilters", "32 composed filters in time"]
STEM_STEPS[1] += "\n+ both ends, + constant"


def draw_row(ax, y, title, tensors, steps, positions):
    """Draw tensors as boxes, and operations as arrows between them."""
    ax.text(0, y + 1.55, title, fontsize=12, weight="bold", va="center")
    previous = None
    for (label, size, color), x in zip(tensors, positions, strict=True):
        ax.add_patch(
            FancyBboxPatch(
                (x, y - size / 2), 1.7, size, fc=color, ec=EDGE,
                boxstyle="round,pad=0.02",
            )
        )  # fmt: skip
        ax.text(x + 0.85, y, label, ha="center", va="center", fontsize=10)
        if previous is not None:
            ax.add_patch(
                FancyArrowPatch(
                    (previous + 1.75, y), (x - 0.05, y), arrowstyle="-|>",
                    mutation_scale=14, color=EDGE,
                )
            )  # fmt: skip
            middle = (previous + 1.75 + x) / 2
            ax.text(
                middle, y + 0.12, steps.pop(0), ha="center", va="bottom", fontsize=8.5
            )
        previous = x


def draw_statistics(ax):
    """Draw the path of the batch statistics, which avoids the large tensors."""
    y = -2.3
    ax.add_patch(
        FancyBboxPatch(
            (3.1, y - 0.4), 3.6, 0.8, fc="#e2efda", ec=EDGE, boxstyle="round,pad=0.02"
        )
    )
    ax.text(
        4.9, y, "moments of the windows:\nmean, and covariance by lag",
        ha="center", va="center", fontsize=8.5,
    )  # fmt: skip
    style = {"arrowstyle": "-|>", "mutation_scale": 14, "color": EDGE, "ls": "--"}
    ax.add_patch(FancyArrowPatch((0.9, -0.5), (3.05, y), **style))
    ax.add_patch(FancyArrowPatch((6.75, y), (7.6, -0.1), **style))
    ax.text(7.4, y + 0.15, "mean and variance for both BNs", fontsize=8.5, va="center")


figure, ax = plt.subplots(figsize=(8.6, 4.9), layout="constrained")
title = f"Published order: {PUBLISHED / 1e6:.0f} million multiply-adds per window"
draw_row(ax, 3.2, title, STOCK, list(STOCK_STEPS), [0, 3.2, 6.6, 10])
title = f"Cheaper order: {LINEAR_STEM / 1e6:.0f} million, without the ends"
draw_row(ax, 0, title, STEM, list(STEM_STEPS), [0, 3.8, 10])
draw_statistics(ax)
ax.set(xlim=(-0.1, 11.9), ylim=(-2.9, 5.1))
ax.axis("off")
