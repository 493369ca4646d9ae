"""Draw the study's results from its tables."""

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.ticker import MaxNLocator

# Sphinx runs this file in the folder docs/figures.
RESULTS = Path("../../benchmarks/results/study")
QUESTIONS = {
    "rest-or-arithmetic": "Mental arithmetic\n(EEGNeX, 24 subjects)",
    "rest-or-arithmetic-scaled": "Mental arithmetic,\neach subject scaled",
    "response-times": "Simulated response times\n(EEGNeX, 24 subjects)",
    "p300": "P300\n(EEGNet, 16 runs of one subject)",
}
LOSSES = {"response-times": "Squared error / variance"}  # else the log loss
DUMMIES = ("class frequencies", "mean of the targets")
COLORS = {
    "AdamW": "0.45",
    "SAM rho=0.05": "#6baed6",
    "SAM rho=0.1": "#3182bd",
    "SAM rho=0.2": "#08306b",
    "EMA": "#d95f02",
    "SWA": "#7570b3",
    "SAM rho=0.1, EMA": "#08306b",
    "GSAM": "C9",
    "FriendlySAM": "C2",
    "LookSAM": "C3",
    "AESAM": "C4",
    "MomentumSAM": "C1",
    "WSAM gamma=0.7": "C5",
    "WSAM gamma=0.9": "C6",
}
# By topic. Not every question has all of them.
CURVES = {
    "rho": ["AdamW", "SAM rho=0.05", "SAM rho=0.1", "SAM rho=0.2"],
    "averaging": ["AdamW", "EMA", "SWA", "SAM rho=0.1", "SAM rho=0.1, EMA"],
    "variants": [
        "AdamW", "SAM rho=0.1", "GSAM", "FriendlySAM", "LookSAM", "AESAM",
        "MomentumSAM", "WSAM gamma=0.7", "WSAM gamma=0.9",
    ],
}  # fmt: skip


def place_of(question, topic, kind):
    """Name the file of one of the study's tables."""
    if question.endswith("-scaled") and topic in ("rho", "averaging"):
        topic = "rho-and-averaging"  # was run as one
    return RESULTS / f"{question}_{topic}_{kind}.csv"


def read(question, topic, kind):
    """Read one of the study's tables."""
    return pd.read_csv(place_of(question, topic, kind))


def questions_of(topic):
    """Name the questions on which a topic was run."""
    return [q for q in QUESTIONS if place_of(q, topic, "summary").exists()]


def draw_curves(ax, question, topic, names, bands):
    """Draw the loss on held-out subjects after each epoch."""
    table = read(question, topic, "by_epoch")
    for name in names:
        curve, color = table[table["estimator"] == name], COLORS[name]
        if bands:
            ax.fill_between(
                curve["epoch"], curve["loss_low"], curve["loss_high"],
                color=color, alpha=0.12, lw=0,
            )  # fmt: skip
        ax.plot(curve["epoch"], curve["loss"], color=color, lw=2, label=name)
    scores = read(question, topic, "scores").set_index("estimator")
    label = DUMMIES[question in LOSSES]
    ax.axhline(scores.loc["dummy", "loss"], color="k", ls=":", lw=1, label=label)
    ax.set(xlabel="Epoch", ylabel=LOSSES.get(question, "Log loss"))
    ax.spines[["top", "right"]].set_visible(False)
    ax.margins(x=0)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))


def draw_epochs(topic, bands=False):
    """Draw the curves of a topic, a panel for each question."""
    run = questions_of(topic)
    figure, axes = plt.subplots(1, len(run), figsize=(12, 3.8), layout="constrained")
    for ax, question in zip(axes, run, strict=True):
        draw_curves(ax, question, topic, CURVES[topic], bands)
        ax.set_title(QUESTIONS[question], fontsize=10)
    handles, labels = axes[0].get_legend_handles_labels()
    labels[-1] = "dummy predictor"
    figure.legend(handles, labels, loc="outside lower center", ncols=5)


def by_epoch():
    """Draw AdamW and SAM with several rho."""
    draw_epochs("rho", bands=True)


def averaging_by_epoch():
    """Draw averaged weights, SAM, and both."""
    draw_epochs("averaging")


def variants_by_epoch():
    """Draw the variants."""
    draw_epochs("variants")


def draw_differences(topic):
    """Draw the differences to a topic's reference after the last epoch."""
    run = questions_of(topic)
    tables = {q: read(q, topic, "comparisons").set_index("estimator") for q in run}
    rows = [name for name in tables[run[0]].index if name != "dummy"]
    reference = read(run[0], topic, "summary")["Estimator"][0]
    figure, axes = plt.subplots(
        1, len(run), figsize=(12, 0.3 * len(rows) + 1.6), layout="constrained"
    )
    for ax, (question, table) in zip(axes, tables.items(), strict=True):
        for y, (_, row) in enumerate(table.reindex(rows).iterrows()):
            significant = row["p_holm"] < 0.05
            ax.plot([row["ci_low"], row["ci_high"]], [y, y], color="C0", lw=2)
            ax.plot(
                row["difference"], y, "o", color="C0", mfc="C0" if significant else "w"
            )
        ax.axvline(0, color="0.6", lw=1, zorder=0)
        ax.set_yticks(range(len(rows)), rows if question == run[0] else [])
        ax.set_ylim(len(rows) - 0.5, -0.5)
        ax.set_title(QUESTIONS[question], fontsize=10)
        ax.set_xlabel(LOSSES.get(question, "Log loss"))
        ax.xaxis.set_major_locator(MaxNLocator(5))
        ax.spines[["top", "right", "left"]].set_visible(False)
    figure.supxlabel(f"Difference to {reference}", fontsize=10)


def rho():
    """Draw SAM with several rho against AdamW."""
    draw_differences("rho")


def subjects():
    """Draw each subject's response times, with AdamW and with SAM."""
    losses = read("response-times", "rho", "subjects").set_index("subject")
    others = [name for name in losses if name not in ("AdamW", "dummy")]
    figure, axes = plt.subplots(
        1, len(others), figsize=(11, 3.8), layout="constrained", sharey=True
    )
    for ax, name in zip(axes, others, strict=True):
        pairs = losses[["AdamW", name]]
        falls = pairs[name] < pairs["AdamW"]
        for side, style, label in ((falls, "C0-", "lower"), (~falls, "C1--", "higher")):
            lines = ax.plot([0, 1], pairs[side].T, style, lw=0.8, alpha=0.8)
            if lines:
                lines[0].set_label(f"{label} with SAM")
        ax.plot([0, 1], pairs.mean(), "ko-", lw=2, label="mean")
        ax.axhline(losses["dummy"].mean(), color="0.4", ls=":", label="dummy predictor")
        ax.set(
            xticks=[0, 1], xticklabels=["AdamW", name], xlim=(-0.3, 1.3),
            yscale="log", yticks=[0.1, 0.3, 1, 3], yticklabels=[0.1, 0.3, 1, 3],
        )  # fmt: skip
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel(LOSSES["response-times"])
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4)


def averaging():
    """Draw averaged weights and SAM against AdamW."""
    draw_differences("averaging")


def variants():
    """Draw the variants against SAM."""
    draw_differences("variants")


def epoch():
    """Draw the effect of choosing the epoch."""
    draw_differences("epoch")
