"""Draw how the speed-up grows with channels and windows."""

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.ticker import ScalarFormatter

# Sphinx runs this file in the folder docs/figures.
table = pd.read_csv(Path("../../benchmarks/results/speed/sizes_large.csv"))
MODELS = "EEGNet", "EEGNeX"
TITLES = {"predict": "prediction", "train": "training step"}

figure, axes = plt.subplots(
    2, 2, figsize=(8.6, 6), layout="constrained", sharex=True, sharey=True
)
for row, model in zip(axes, MODELS, strict=True):
    for ax, (what, title) in zip(row, TITLES.items(), strict=True):
        lines = table[(table["model"] == model) & (table["what"] == what)]
        for i, (batch, line) in enumerate(lines.groupby("windows")):
            label = f"{batch} window" + "s" * (batch > 1)
            color = plt.cm.viridis_r(0.2 + 0.25 * i)
            ax.plot(
                line["channels"], line["stock / fast"], "o-", ms=4, color=color,
                label=label,
            )  # fmt: skip
        ax.axhline(1, color="0.2", lw=1)
        ax.set(xscale="log", yscale="log", title=f"{model}, {title}")
        ax.set_xticks(sorted(set(lines["channels"])))
        ax.set_yticks([1, 2, 5, 10, 20, 50])
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_formatter(ScalarFormatter())
            axis.set_minor_locator(plt.NullLocator())
        ax.spines[["top", "right"]].set_visible(False)
axes[0, 0].legend(frameon=False)
figure.supxlabel("Channels")
figure.supylabel("Original time / sped-up time")
