"""Sentences and a self-contained HTML page about a comparison."""

from __future__ import annotations

import html
import importlib.metadata
import os
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import mne
import numpy as np
import pandas as pd

from braindecode_sam.comparison._statistics import ALPHA

LABELS = {
    "nmse": "normalized squared error",
    "squared_error": "squared error",
    "absolute_error": "absolute error",
    "log_loss": "log loss",
    "zero_one": "error rate",
}
PACKAGES = ("braindecode_sam", "braindecode", "skorch", "scikit-learn", "torch", "mne",
            "numpy", "scipy")  # fmt: skip


def label(loss: str) -> str:
    """Return the display name of a loss."""
    return LABELS.get(loss, loss)


def sentences(comparison: Any) -> list[str]:
    """Describe the result of each comparison with the reference."""
    means = comparison.subject_losses.mean()
    reference, loss = comparison.reference, label(comparison.loss_name)
    said = []
    for name, row in comparison.comparisons().iterrows():
        if name == comparison.dummy:
            continue
        numbers = (
            f"{name} has a {loss} of {means[name]:.3f} against {means[reference]:.3f}"
            f" with {reference}: a difference of {row['difference']:+.3f} (95 %"
            f" interval {row['ci_low']:+.3f} to {row['ci_high']:+.3f}), lower for"
            f" {int(row['n_better'])} of {int(row['n_subjects'])} subjects."
        )
        p = f"p = {row['p_holm']:.2g} after Holm correction"
        if np.isinf(row["smallest_detectable"]):
            verdict = (
                f"With so few subjects and {len(comparison.paired)} comparisons, no"
                f" difference can be significant ({p})."
            )
        elif row["p_holm"] < ALPHA:
            verdict = f"The difference is significant ({p})."
        else:
            verdict = (
                f"The difference is not significant ({p}). With these subjects, a"
                f" difference of {row['smallest_detectable']:.3f} would be significant"
                " with a probability of 0.8."
            )
        said.append(f"{numbers} {verdict}")
    return said


def write(comparison: Any, path: str | os.PathLike[str], title: str) -> None:
    """Write the page."""
    if Path(path).suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"path must end in .html, got {str(path)!r}")
    report = mne.Report(title=title, verbose="error")

    def add(heading: str, content: str, section: str | None = None) -> None:
        report.add_html(content, title=heading, section=section)

    add("Results", _findings(comparison))
    figures = {"Losses of subjects": comparison.plot()}
    if comparison.y_pred_by_epoch:
        figures["Held-out loss by epoch"] = comparison.plot_by_epoch()
    for heading, figure in figures.items():
        report.add_figure(figure, title=heading, image_format="png")
        plt.close(figure)
    add("Scores", _table(scores_table(comparison)) + _SCORES_NOTE)
    add("Paired comparisons", _table(comparison.comparisons()) + _PAIRED_NOTE)
    for by in ("fold", "subject"):
        means = comparison.scores(by).drop(columns="seed")
        for metric in comparison.scoring:
            wide = means.pivot_table(
                index=by, columns="estimator", values=metric, sort=False, dropna=False
            )
            add(f"{metric} by {by}", _table(wide), "Folds and subjects")
    losses = comparison.subject_losses
    add(f"{label(comparison.loss_name)} by subject", _table(losses),
        "Folds and subjects")  # fmt: skip
    for name, settings in comparison.settings.items():
        table = pd.DataFrame({"value": settings}).rename_axis("parameter")
        add(f"Settings of {name}", _table(table), "Settings and versions")
    add("Versions", _table(_versions()), "Settings and versions")
    report.save(path, overwrite=True, open_browser=False, verbose="error")


def scores_table(comparison: Any) -> pd.DataFrame:
    """Format the scores and their standard deviations over the seeds."""
    table = comparison.to_frame()
    columns: dict[str, Iterable[Any]] = {}
    for metric in comparison.scoring:
        spread = table[f"{metric}_sd"]
        texts = table[metric].map("{:.3f}".format)
        columns[metric] = texts.where(
            spread.isna(), texts + spread.map(" ± {:.3f}".format)
        )
    columns[label(comparison.loss_name)] = [
        f"{row['loss']:.3f} [{row['loss_low']:.3f}, {row['loss_high']:.3f}]"
        for _, row in table.iterrows()
    ]
    columns["CPU seconds per fit"] = table["cpu_seconds"].map("{:.1f}".format)
    columns["epochs"] = table["n_epochs"].map("{:.0f}".format)
    columns["parameters"] = table["n_params"].map("{:,.0f}".format)
    return pd.DataFrame(columns, index=table.index)


_SCORES_NOTE = """<p>Scores of all out-of-fold predictions pooled, mean and standard
deviation over the seeds. Scores that begin with <code>neg_</code> are negated, so that
higher is better. Brackets hold the 95&nbsp;% bootstrap interval of the mean loss over
subjects.</p>"""
_PAIRED_NOTE = """<p>Each row is compared with the reference by the loss averaged over
the windows of each subject and over the seeds. Negative differences favor the row. The
interval is a bootstrap over subjects. The p-value is that of a permutation test that
flips the signs of the subjects' differences; <code>p_holm</code> is corrected for all
rows (Holm 1979). <code>smallest_detectable</code> is the difference that would be
significant with a probability of 0.8. The test ignores that subjects of the same fold
share a training set.</p>"""


def _findings(comparison: Any) -> str:
    y = comparison.y
    kind = f"{len(comparison.classes)} classes" if comparison.classes is not None else (
        "one target" if y.ndim == 1 else f"{y.shape[1]} targets"
    )  # fmt: skip
    fits = comparison.fits
    n_seeds = fits["seed"].nunique()
    facts = (
        f"{len(comparison.subjects)} subjects, {sum(map(len, comparison.folds))}"
        f" windows, {kind}; {len(comparison.folds)} folds,"
        f" {n_seeds} seed{'s' if n_seeds > 1 else ''}, {len(fits)} fits in"
        f" {fits['cpu_seconds'].sum() / 60:.1f} minutes of CPU time."
    )
    items = "".join(f"<li>{html.escape(s)}</li>" for s in comparison.sentences())
    return f"<ul>{items}</ul><p>{html.escape(facts)}</p>"


def _table(table: pd.DataFrame) -> str:
    body = table.reset_index().rename_axis(columns=None).to_html(
        index=False, border=0, na_rep="", float_format=lambda v: f"{v:.4g}",
        justify="right", classes="table table-sm table-striped text-nowrap text-end",
    )  # fmt: skip
    return f'<div style="overflow-x: auto">{body}</div>'


def _versions() -> pd.DataFrame:
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    versions["Python"] = platform.python_version()
    versions["platform"] = platform.platform()
    return pd.DataFrame({"version": versions}).rename_axis("package")
