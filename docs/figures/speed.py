"""Draw the speed-ups of FastEEGNeX from the tables of the speed page."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

# Sphinx runs this file in the folder docs/figures.
RESULTS = Path("../../benchmarks/results/speed")
SHAPES = {"challenge_1": "Challenge 1", "challenge_2": "Challenge 2", "hbn": "HBN"}
TRAININGS = {"FastEEGNeX, AdamW": "0.45", "FastEEGNeX, SAM": "C0"}


def read(name, variant):
    """Read the speed-up of each variant for each row of the figure."""
    table = pd.read_csv(RESULTS / f"{name}.csv")
    if "windows" not in table:
        table["windows"] = "challenge_1"
    return table.pivot(index="windows", columns=variant, values="speed-up")


def draw_bars(ax, positions, speed_ups, color, label=None, height=0.4):
    """Draw bars with their values."""
    bars = ax.barh(positions, speed_ups, height, color=color, label=label)
    ax.bar_label(bars, [f"{value:.0f}×" for value in speed_ups], padding=3)


steps = read("training_step", "training")
folds = read("cross_validation", "training")
trainings = pd.concat([steps, folds])[list(TRAININGS)]
predictions = read("predict", "model")["FastEEGNeX"]
names = [f"Training step, {SHAPES[shape]}" for shape in steps.index]
names += [f"Cross-validation, {SHAPES[shape]}" for shape in folds.index]
names += [f"Prediction, {SHAPES[shape]}" for shape in predictions.index]

figure, ax = plt.subplots(figsize=(8.6, 4.6), layout="constrained")
for shift, (training, color) in zip((-0.2, 0.2), TRAININGS.items(), strict=True):
    rows = np.arange(len(trainings)) + shift
    draw_bars(ax, rows, trainings[training], color, training)
rows = np.arange(len(trainings), len(names))
draw_bars(ax, rows, predictions, "C2", "FastEEGNeX, prediction")
ax.axvline(1, color="0.2", lw=1)
ax.set_yticks(range(len(names)), names)
ax.invert_yaxis()
ax.margins(x=0.08)
ax.set_xlabel("Speed-up over EEGNeX, in training with AdamW")
ax.spines[["top", "right"]].set_visible(False)
ax.legend(frameon=False, loc="lower right")
