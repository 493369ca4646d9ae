"""Sentences about a comparison, and a self-contained HTML page."""

from __future__ import annotations

import base64
import io
import os
import platform
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import scipy
from matplotlib.figure import Figure

from braindecode_sam.comparison._fits import versions
from braindecode_sam.comparison._statistics import ALPHA

LABELS = {
    "nmse": "normalized squared error",
    "squared_error": "squared error",
    "absolute_error": "absolute error",
    "log_loss": "log loss",
    "zero_one": "error rate",
}
MOST_CHARACTERS = 300  # of a setting
STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
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
th, td { border-bottom: 1px solid #8886; padding: .3rem .7rem; text-align: right;
  white-space: nowrap; }
thead th { white-space: normal; }
tr > :first-child, .texts th, .texts td { text-align: left; }
.texts td { vertical-align: top; }
.texts td + td { overflow-wrap: anywhere; white-space: normal; min-width: 10rem; }
summary { cursor: pointer; font-weight: bold; padding: .4rem 0; }
.note { font-size: .875rem; opacity: .8; max-width: 50rem; }
"""
SCORES_NOTE = """Scores of the pooled out-of-fold predictions, mean and standard
deviation over the seeds. Brackets hold the 95&nbsp;% bootstrap interval over subjects
of the loss by which estimators are compared, averaged over the windows of each
subject."""
PAIRED_NOTE = """Mean over subjects of the loss minus that of the reference: negative is
better. The interval is a bootstrap over subjects. The p-value is that of a permutation
test that flips the signs of the subjects' differences, corrected for all rows (Holm
1979). The test ignores that subjects of the same fold share a training set."""
MISSING = "\N{EN DASH}"


def label(loss: str) -> str:
    """Return the display name of a loss."""
    return LABELS.get(loss, loss)


def sentences(comparison: Any) -> list[str]:
    """Describe the comparisons with the dummy predictor and with the reference."""
    means = comparison.subject_losses.mean()
    reference, loss = comparison.reference, label(comparison.loss_name)
    said = [_against_dummy(comparison, loss)]
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
                f"The difference is not significant ({p}). The test had 80 % power to"
                f" detect a difference of {row['smallest_detectable']:.3f}."
            )
        said.append(f"{numbers} {verdict}")
    return said


def no_better_than_dummy(comparison: Any) -> list[str]:
    """Name the estimators whose mean loss is not below that of the dummy predictor."""
    losses = comparison.subject_losses.mean()
    others = [name for name in comparison.estimators if name != comparison.dummy]
    return [name for name in others if not losses[name] < losses[comparison.dummy]]


def _against_dummy(comparison: Any, loss: str) -> str:
    losses = comparison.subject_losses.mean()
    worse = no_better_than_dummy(comparison)
    better = [n for n in comparison.estimators if n not in (*worse, comparison.dummy)]
    classifies = comparison.classes is not None
    guess = "the class frequencies" if classifies else "the mean of the targets"
    guess += f" ({loss} {losses[comparison.dummy]:.3f})"
    if not better:
        return f"No model is better than {guess}."

    def are(names: Sequence[str]) -> str:
        *first, last = [f"{name} ({losses[name]:.3f})" for name in names]
        return f"{', '.join(first)} and {last} are" if first else f"{last} is"

    but = f", but {are(worse)} not" if worse else ""
    return f"{are(better)} better than {guess}{but}."


def write(comparison: Any, path: str | os.PathLike[str], title: str) -> None:
    """Write the page."""
    if Path(path).suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"path must end in .html, got {str(path)!r}")
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
        "</div>",
        "<h2>Scores</h2>", _table(_scores(comparison)),
        f'<p class="note">{SCORES_NOTE}</p>',
        f"<h2>Differences to {escape(comparison.reference)}</h2>",
        _table(_differences(comparison)),
        f'<p class="note">{PAIRED_NOTE}</p>',
        "<h2>Details</h2>",
        _folded("Scores by fold", _by("fold", comparison)),
        _folded("Scores by subject", _by("subject", comparison)),
        _folded("Settings that differ", _table(_settings(comparison), "texts")),
        _folded("Versions", _table(_versions(), "texts")),
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
        f" {n_seeds} seed{'s' if n_seeds > 1 else ''}, {len(fits)} fits in"
        f" {fits['cpu_seconds'].sum() / 60:.2g} minutes of CPU time."
    )


def _image(figure: Figure, description: str) -> str:
    file = io.BytesIO()
    figure.savefig(file, format="svg")
    plt.close(figure)
    data = base64.b64encode(file.getvalue()).decode()
    source = f"data:image/svg+xml;base64,{data}"
    return f'<img alt="{description}" src="{source}">'


def _folded(summary: str, content: str) -> str:
    return f"<details><summary>{summary}</summary>{content}</details>"


def _table(table: pd.DataFrame, kind: str = "numbers") -> str:
    """Make a table of text, which wraps, or of numbers."""
    head = "".join(f"<th>{escape(str(c))}</th>" for c in ("", *table.columns))
    rows = (
        "".join(f"<td>{escape(_text(cell))}</td>" for cell in row)
        for row in table.itertuples()
    )
    body = "".join(f"<tr>{cells}</tr>" for cells in rows)
    return (
        f'<div class="scroll"><table class="{kind}"><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _text(cell: Any) -> str:
    if isinstance(cell, (float, np.floating)):
        return MISSING if np.isnan(cell) else f"{cell:.3f}"
    return str(cell)


def _shown(metric: str) -> tuple[str, int]:
    """Return the display name of a scorer, and -1 if its scores are negated."""
    sign = -1 if metric.startswith("neg_") else 1
    return metric.removeprefix("neg_").replace("_", " "), sign


def _scores(comparison: Any) -> pd.DataFrame:
    """Format the scores and their standard deviations over the seeds."""
    table, loss = comparison.to_frame(), label(comparison.loss_name)
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
    formats: dict[str, Callable[[Any], str]] = {
        f"{label(comparison.loss_name)}, difference": lambda r: f"{r.difference:+.3f}",
        "95 % interval": lambda r: f"{r.ci_low:+.3f} to {r.ci_high:+.3f}",
        "lower for": lambda r: f"{r.n_better} of {r.n_subjects} subjects",
        "p (Holm)": lambda r: f"{r.p_holm:.2g}",
        "80 % power to detect": lambda r: f"{r.smallest_detectable:.3f}",
    }
    rows = list(table.itertuples())
    columns = {name: list(map(make, rows)) for name, make in formats.items()}
    return pd.DataFrame(columns, index=table.index)


def _by(by: str, comparison: Any) -> str:
    """Make a table of each score, with a row for each fold or subject."""
    loss, said = label(comparison.loss_name), ""
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
    """Tabulate the parameters in which estimators of the same class differ."""
    given = {n: s for n, s in comparison.settings.items() if n != comparison.dummy}
    table = pd.DataFrame(given).fillna("")
    differ = pd.DataFrame(
        {
            kind: same.nunique() > 1 if len(same) > 1 else (same != "").any()
            for kind, same in table.T.groupby("class")
        }
    )
    texts = table[differ.any(axis=1)]
    is_short = texts.map(len) <= MOST_CHARACTERS
    return texts.where(is_short, texts.map(lambda text: text[:MOST_CHARACTERS] + " …"))


def _versions() -> pd.DataFrame:
    more = {"scipy": scipy.__version__, "Python": platform.python_version()}
    all_of_them = versions() | more | {"platform": platform.platform()}
    return pd.DataFrame({"version": all_of_them})
