"""Sentences about a comparison, and a self-contained HTML page."""

from __future__ import annotations

import base64
import io
import os
import platform
from collections.abc import Sequence
from datetime import timedelta
from html import escape
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import scipy
from matplotlib.figure import Figure

from braindecode_sam.comparison._fits import versions
from braindecode_sam.comparison._statistics import ALPHA, label_of

MISSING = "\N{EN DASH}"
STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
h1, h2 { line-height: 1.2; } h2 { margin-top: 2.5rem; }
ul.verdict { background: #3182bd1f; border-left: 4px solid #3182bd;
  padding: .8rem 1rem .8rem 2rem; }
ul.verdict li:first-child { font-weight: bold; }
.figures, .scroll { overflow-x: auto; }
.figures { display: flex; flex-wrap: wrap; gap: 1rem; align-items: flex-start; }
img { background: white; border-radius: 6px; flex: 1; min-width: 29rem;
  max-width: 50rem; }
table { border-collapse: collapse; font-size: .875rem;
  font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid #8886; padding: .3rem .6rem; text-align: right;
  white-space: nowrap; }
thead th { white-space: normal; }
tbody th { font-weight: normal; }
tr > :first-child, .texts th, .texts td { text-align: left; vertical-align: top; }
.texts td { overflow-wrap: anywhere; white-space: normal; min-width: 10rem; }
summary { cursor: pointer; font-weight: bold; padding: .4rem 0; }
.note { font-size: .875rem; opacity: .8; max-width: 50rem; }
"""
FIGURES_NOTE = """Thin lines and ticks are subjects. Thick bars and shades are
95&nbsp;% intervals over subjects. Circles are filled where p (Holm) is below 0.05."""
SCORES_NOTE = """Scores of the pooled out-of-fold predictions, mean and standard
deviation over the seeds. Brackets hold the 95&nbsp;% bootstrap interval over subjects
of the loss by which estimators are compared, averaged over the windows of each
subject."""
PAIRED_NOTE = """Mean over subjects of the loss minus that of the reference: negative is
better. The interval is a bootstrap over subjects. The p-value is that of a permutation
test that flips the signs of the subjects' differences, corrected for all rows (Holm
1979). The test ignores that subjects of the same fold share a training set."""


def sentences(comparison: Any) -> list[str]:
    """Describe the comparisons with the dummy predictor and with the reference."""
    means = comparison.mean_losses
    reference, loss = comparison.reference, label_of(comparison.loss_name)
    said = [_against_dummy(comparison, loss)]
    for name, row in comparison.comparisons().iterrows():
        if name == comparison.dummy or np.isnan(row["difference"]):
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
                f"The difference is not significant ({p}). The test had 80 % power to"
                f" detect a difference of {row['smallest_detectable']:.3f}."
            )
        said.append(f"{numbers} {verdict}")
    return said


def no_better_than_dummy(comparison: Any) -> list[str]:
    """Name the estimators whose mean loss is not below that of the dummy predictor."""
    losses = comparison.mean_losses
    others = [name for name in comparison.estimators if name != comparison.dummy]
    return [name for name in others if losses[name] >= losses[comparison.dummy]]


def _against_dummy(comparison: Any, loss: str) -> str:
    losses = comparison.mean_losses
    worse = no_better_than_dummy(comparison)
    unknown = [name for name in losses.index if np.isnan(losses[name])]
    excluded = {*worse, *unknown, comparison.dummy}
    better = [name for name in comparison.estimators if name not in excluded]
    classifies = comparison.classes is not None
    guess = "the class frequencies" if classifies else "the mean of the targets"
    guess += f" ({loss} {losses[comparison.dummy]:.3f})"
    rest = "".join(
        f" {name} has predictions that are not finite, so its loss is unknown."
        for name in unknown
    )
    if not better:
        return f"No model is better than {guess}.{rest}"

    def are(names: Sequence[str]) -> str:
        *first, last = [f"{name} ({losses[name]:.3f})" for name in names]
        return f"{', '.join(first)} and {last} are" if first else f"{last} is"

    but = f", but {are(worse)} not" if worse else ""
    return f"{are(better)} better than {guess}{but}.{rest}"


def write(comparison: Any, path: str | os.PathLike[str], title: str) -> None:
    """Write the page."""
    if Path(path).suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"path must end in .html, got {str(path)!r}")
    more = {**versions(), "scipy": scipy.__version__, "platform": platform.platform(),
            "Python": platform.python_version()}  # fmt: skip
    parts = [
        "<!doctype html>", '<html lang="en">', '<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title>", f"<style>{STYLE}</style>",
        f"<h1>{escape(title)}</h1>", _verdict(comparison),
        f'<p class="note">{_facts(comparison)}</p>',
        '<div class="figures">',
        _image(comparison.plot(), "Loss of each subject, and paired differences"),
        _image(comparison.plot_by_epoch(), "Held-out loss by epoch")
        if comparison.y_pred_by_epoch else "",
        "</div>", f'<p class="note">{FIGURES_NOTE}</p>',
        "<h2>Scores</h2>", _table(_scores(comparison)),
        f'<p class="note">{SCORES_NOTE}</p>',
        f"<h2>Differences to {escape(comparison.reference)}</h2>",
        _table(_differences(comparison)),
        f'<p class="note">{PAIRED_NOTE}</p>',
        "<h2>Details</h2>",
        _folded("Scores by fold", _by("fold", comparison)),
        _folded("Scores by subject", _by("subject", comparison)),
        _folded("Settings", _table(_settings(comparison), "texts")),
        _folded("Versions", _table(pd.DataFrame({"version": more}), "texts")),
    ]  # fmt: skip
    Path(path).write_text("\n".join(parts), encoding="utf-8")


def short(comparison: Any) -> str:
    """Return the sentences and the scores, for notebooks."""
    return _verdict(comparison) + _table(_scores(comparison))


def _verdict(comparison: Any) -> str:
    items = "".join(f"<li>{escape(text)}</li>" for text in sentences(comparison))
    return f'<ul class="verdict">{items.replace(" %", "&nbsp;%")}</ul>'


def _facts(comparison: Any) -> str:
    y, fits = comparison.y, comparison.fits
    n_seeds = fits["seed"].nunique()
    if comparison.classes is not None:
        targets = f"{len(comparison.classes)} classes"
    else:
        targets = "one target" if y.ndim == 1 else f"{y.shape[1]} targets"
    return (
        f"{len(comparison.subjects)} subjects, {sum(map(len, comparison.folds))}"
        f" windows, {targets}; {len(comparison.folds)} folds,"
        f" {n_seeds} seed{'s' if n_seeds > 1 else ''}, {len(fits)} fits; CPU time"
        f" {timedelta(seconds=round(fits['cpu_seconds'].sum()))}."
    )


def _image(figure: Figure, description: str) -> str:
    file = io.BytesIO()
    figure.savefig(file, format="svg")
    plt.close(figure)
    data = base64.b64encode(file.getvalue()).decode()
    return f'<img alt="{description}" src="data:image/svg+xml;base64,{data}">'


def _folded(summary: str, content: str) -> str:
    return f"<details><summary>{summary}</summary>{content}</details>"


def _table(table: pd.DataFrame, kind: str = "numbers") -> str:
    """Make a table of texts, which wrap, or of numbers."""
    with pd.option_context("display.max_colwidth", None):  # or pandas shortens texts
        html = table.to_html(
            classes=kind, border=0, index_names=False, na_rep=MISSING,
            float_format="{:.3f}".format,
        )  # fmt: skip
    return f'<div class="scroll">{html}</div>'


def _shown(metric: str) -> tuple[str, int]:
    """Return the display name of a scorer, and -1 if its scores are negated."""
    sign = -1 if metric.startswith("neg_") else 1
    return metric.removeprefix("neg_").replace("_", " "), sign


def _scores(comparison: Any) -> pd.DataFrame:
    """Format the scores and their standard deviations over the seeds."""
    table, loss = comparison.to_frame(), label_of(comparison.loss_name)
    columns: dict[str, Any] = {
        loss: [
            f"{row.loss:.3f} [{row.loss_low:.3f}, {row.loss_high:.3f}]"
            for row in table.itertuples()
        ]
    }
    for metric in comparison.scoring:
        name, sign = _shown(metric)
        if name != loss:
            spread = table[f"{metric}_sd"].map(" ± {:.3f}".format)
            texts = (sign * table[metric]).map("{:.3f}".format)
            columns[name] = texts + spread.where(table[f"{metric}_sd"].notna(), "")
    columns["CPU seconds per fit"] = table["cpu_seconds"].map("{:.1f}".format)
    for name, count in (("epochs", "n_epochs"), ("parameters", "n_params")):
        if table[count].any():  # there are nets
            texts = table[count].map("{:,.0f}".format)
            columns[name] = texts.where(table[count] > 0, MISSING)
    return pd.DataFrame(columns, index=table.index)


def _differences(comparison: Any) -> pd.DataFrame:
    table = comparison.comparisons()
    rows = [
        {
            f"{label_of(comparison.loss_name)}, difference": f"{row.difference:+.3f}",
            "95 % interval": f"{row.ci_low:+.3f} to {row.ci_high:+.3f}",
            "lower for": f"{row.n_better} of {row.n_subjects} subjects",
            "p (Holm)": f"{row.p_holm:.2g}",
            "80 % power to detect": f"{row.smallest_detectable:.3f}",
        }
        for row in table.itertuples()
    ]
    return pd.DataFrame(rows, index=table.index)


def _by(by: str, comparison: Any) -> str:
    """Make a table of each score, with a row for each fold or subject."""
    loss, said = label_of(comparison.loss_name), ""
    if by == "subject":
        said = f"<p>{escape(loss)}</p>{_table(comparison.subject_losses)}"
    scores = comparison.scores(by)
    for metric in comparison.scoring:
        name, sign = _shown(metric)
        if by == "fold" or name != loss:
            wide = sign * scores.pivot_table(
                index=by, columns="estimator", values=metric, sort=False, dropna=False
            )
            said += f"<p>{escape(name)}</p>{_table(wide)}"
    return said


def _settings(comparison: Any) -> pd.DataFrame:
    """Tabulate parameters in which estimators of a class differ; all of a lone one."""
    given = {n: s for n, s in comparison.settings.items() if n != comparison.dummy}
    table = pd.DataFrame(given).fillna("")
    differ = pd.DataFrame(
        {
            kind: same.nunique() > 1 if len(same) > 1 else (same != "").any()
            for kind, same in table.T.groupby("class")
        }
    )
    most = 300  # characters of a setting
    return table[differ.any(axis=1)].map(
        lambda text: text if len(text) <= most else text[:most] + " …"
    )
