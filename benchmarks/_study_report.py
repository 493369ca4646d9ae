"""From the study's cells to tables and figures."""

import itertools

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from _study_cells import BASELINES, Cell, splits_of
from joblib import Parallel, delayed
from scipy.stats import permutation_test
from sklearn.metrics import balanced_accuracy_score, log_loss, r2_score

from braindecode_sam import normalized_root_mean_squared_error as nrmse
from braindecode_sam.metrics import pearson_correlation

REGRESSION = {
    "nrmse_std": nrmse,
    "nrmse_range": lambda y, p: nrmse(y, p, normalization="range"),
    "r2": r2_score,
    "pearsonr": pearson_correlation,
}
CLASSIFICATION = {
    "balanced_accuracy": lambda y, p: balanced_accuracy_score(y, p > 0.5),
    "log_loss": lambda y, p: log_loss(y, p, labels=[0, 1]),
}
MAIN = {True: "log_loss", False: "nrmse_std"}  # by whether the task is classification
LABELS = {
    "nrmse_std": "NRMSE (std)",
    "nrmse_range": "NRMSE (range)",
    "r2": "R²",
    "pearsonr": "Pearson r",
    "balanced_accuracy": "balanced accuracy",
    "log_loss": "log loss",
}


def write_report(cells, tasks, settings, folder, results, n_resamples):
    """Write ``summary.csv``, ``per_fold.csv``, ``comparisons.csv``, tables and figures.

    Parameters
    ----------
    cells : list of Cell
        All must be there.
    tasks : dict of str to Task
        The data.
    settings : Settings
        Of the cells.
    folder, results : pathlib.Path
        Where the cells are; where the report goes to.
    n_resamples : int
        Of the bootstrap.
    """
    results.mkdir(parents=True, exist_ok=True)
    runs = {
        task.name: collect(cells, task, settings.n_splits, folder)
        for task in tasks.values()
    }
    jobs = [
        delayed(summarize)(tasks[name], *key, run, n_resamples)
        for name, by_key in runs.items()
        for key, run in by_key.items()
    ]
    print(f"scoring {len(jobs)} runs, {n_resamples} bootstrap samples of each")
    summary = pd.concat(Parallel(-1, verbose=1)(jobs), ignore_index=True)
    per_fold = pd.concat(
        [
            fold_scores(tasks[name], *key, run, settings.n_splits)
            for name, by_key in runs.items()
            for key, run in by_key.items()
        ],
        ignore_index=True,
    )
    pairs = [
        (task, model, other)
        for task, by_key in runs.items()
        for model, other in by_key
        if other not in ("-", "AdamW") and (model, "AdamW") in by_key
    ]
    comparisons = compare_all(tasks, runs, pairs, n_resamples)
    for name, table in {
        "summary": summary, "per_fold": per_fold, "comparisons": comparisons
    }.items():  # fmt: skip
        table.to_csv(results / f"{name}.csv", index=False, float_format="%.4f")
    for task in tasks.values():
        short = task.name.replace(" ", "_")
        compact_table(summary, task).to_csv(results / f"{short}.csv", index=False)
        plot_task(summary, task).savefig(results / f"{short}.png", dpi=110)
    if len(comparisons):
        plot_comparisons(comparisons).savefig(results / "comparisons.png", dpi=110)
    plt.close("all")
    print(f"wrote {len(list(results.iterdir()))} files to {results}")


def collect(cells, task, n_splits, folder):
    """Put a task's cells together: a run for each model and optimizer.

    Returns
    -------
    runs : dict of (str, str) to dict
        With "y_pred" of shape (n_seeds, n_windows), out of fold, and arrays of shape
        (n_seeds, n_folds) with what else the cells hold.
    """
    test_folds = [test for _, test in splits_of(task, n_splits)]
    mine = [cell for cell in cells if cell.task == task.name]
    runs = {}
    for (model, optimizer), group in itertools.groupby(
        sorted(mine, key=lambda c: (c.model, c.optimizer, c.seed, c.fold)),
        lambda c: (c.model, c.optimizer),
    ):
        seeds = sorted({cell.seed for cell in group})
        run = {"y_pred": np.full((len(seeds), len(task.y)), np.nan)}
        for seed, (fold, test) in itertools.product(seeds, enumerate(test_folds)):
            cell = Cell(seed, task.name, model, optimizer, fold)
            with np.load(folder / cell.file_name) as found:
                run["y_pred"][seed, test] = found["y_pred"]
                for key in ("seconds", "cpu_seconds", "n_params", "epoch"):
                    shape = len(seeds), n_splits
                    run.setdefault(key, np.zeros(shape))[seed, fold] = found[key]
        runs[model, optimizer] = run
    return runs


def metrics_of(task):
    """Give the metrics that suit a task, by name."""
    return CLASSIFICATION if task.classifies else REGRESSION


def resampled_rows(task, n_resamples):
    """Draw subjects with replacement; give the rows of their windows.

    The same subjects are drawn for every model.
    """
    rng = np.random.RandomState(0)
    subjects = np.unique(task.subjects)
    rows = {s: np.flatnonzero(task.subjects == s) for s in subjects}
    return [
        np.concatenate([rows[s] for s in rng.choice(subjects, len(subjects))])
        for _ in range(n_resamples)
    ]


def mean_over_seeds(metric, y, y_pred, rows=slice(None)):
    """Score each seed's pooled predictions, and average."""
    return np.mean([metric(y[rows], one[rows]) for one in y_pred])


def interval(values):
    """Give the percentiles that 95 % of the values lie between."""
    return np.nanpercentile(values, [2.5, 97.5])


def summarize(task, model, optimizer, run, n_resamples):
    """Score a run, with a bootstrap over subjects."""
    drawn = resampled_rows(task, n_resamples)
    rows = []
    for name, metric in metrics_of(task).items():
        per_seed = [metric(task.y, one) for one in run["y_pred"]]
        low, high = interval(
            [mean_over_seeds(metric, task.y, run["y_pred"], r) for r in drawn]
        )
        rows.append(
            {
                "task": task.name,
                "model": model,
                "optimizer": optimizer,
                "metric": name,
                "pooled": np.mean(per_seed),
                "ci_low": low,
                "ci_high": high,
                "sd_over_seeds": np.std(per_seed, ddof=1) if len(per_seed) > 1 else 0,
                "n_seeds": len(per_seed),
                "n_params": int(run["n_params"].max()),
                "cpu_seconds_per_fit": run["cpu_seconds"].mean(),
                "median_epoch": np.median(run["epoch"]),
            }
        )
    return pd.DataFrame(rows)


def fold_scores(task, model, optimizer, run, n_splits):
    """Score each fold by itself, averaged over the seeds."""
    rows = []
    for fold, (_, test) in enumerate(splits_of(task, n_splits)):
        scores = {
            name: mean_over_seeds(metric, task.y, run["y_pred"], test)
            for name, metric in metrics_of(task).items()
        }
        rows += [
            {
                "task": task.name, "model": model, "optimizer": optimizer,
                "fold": fold + 1, "metric": name, "score": score,
                "seconds_per_fit": run["seconds"][:, fold].mean(),
                "cpu_seconds_per_fit": run["cpu_seconds"][:, fold].mean(),
            }
            for name, score in scores.items()
        ]  # fmt: skip
    return pd.DataFrame(rows)


def subject_losses(task, run):
    """Average the loss over a subject's windows and the seeds.

    Returns
    -------
    losses : ndarray of shape (n_subjects,)
        Squared errors over the variance of the targets, or log losses.
    """
    y, y_pred = task.y, run["y_pred"].astype(float)
    if task.classifies:
        chosen = np.where(y == 1, y_pred, 1 - y_pred)
        losses = -np.log(chosen.clip(np.finfo(float).eps))
    else:
        losses = (y - y_pred) ** 2 / y.astype(float).var()
    per_window = losses.mean(axis=0)
    return np.array(
        [per_window[task.subjects == s].mean() for s in np.unique(task.subjects)]
    )


def compare_all(tasks, runs, pairs, n_resamples):
    """Compare optimizers with AdamW, subject by subject."""
    jobs = [
        delayed(compare)(
            tasks[task], model, other, runs[task][model, other],
            runs[task][model, "AdamW"], n_resamples,
        )
        for task, model, other in pairs
    ]  # fmt: skip
    print(f"comparing {len(jobs)} runs with AdamW", flush=True)
    table = pd.DataFrame(Parallel(-1, verbose=1)(jobs))
    if len(table):
        table["p_holm"] = holm(table["p"].to_numpy())
    return table


def compare(task, model, optimizer, run, base, n_resamples):
    """Compare two runs: difference of the main metric, and a paired test.

    The test flips the signs of the subjects' differences in loss; under the hypothesis
    that it does not matter which of the two optimizers trained the net, each sign is
    as likely as the other.
    """
    name = MAIN[task.classifies]
    metric = metrics_of(task)[name]

    def difference(rows=slice(None)):
        ours, theirs = (
            mean_over_seeds(metric, task.y, r["y_pred"], rows) for r in (run, base)
        )
        return ours - theirs

    drawn = resampled_rows(task, n_resamples)
    low, high = interval([difference(rows) for rows in drawn])
    losses = subject_losses(task, run) - subject_losses(task, base)
    test = permutation_test(
        (losses,), np.mean, permutation_type="samples", n_resamples=9999,
        rng=np.random.default_rng(0), vectorized=True,
    )  # fmt: skip
    return {
        "task": task.name,
        "model": model,
        "optimizer": optimizer,
        "metric": name,
        "difference": difference(),
        "ci_low": low,
        "ci_high": high,
        "better_in_subjects": int((losses < 0).sum()),
        "n_subjects": len(losses),
        "p": test.pvalue,
    }


def holm(p):
    """Correct p-values for their number (Holm 1979).

    Parameters
    ----------
    p : ndarray of shape (n_tests,)
        Of single tests.

    Returns
    -------
    corrected : ndarray of shape (n_tests,)
        At most 1.
    """
    order = np.argsort(p)
    steps = (len(p) - np.arange(len(p))) * p[order]
    corrected = np.empty(len(p))
    corrected[order] = np.maximum.accumulate(steps).clip(max=1)
    return corrected


def in_order(table):
    """Sort rows: baselines first, then models, AdamW and SAM before the variants."""
    first = {name: i for i, name in enumerate((*BASELINES, "-", "AdamW", "SAM"))}
    keys = table[["model", "optimizer"]].map(lambda name: (first.get(name, 9), name))
    return table.loc[keys.sort_values(["model", "optimizer"]).index]


def compact_table(summary, task):
    """Make a table for people: a row for each run, intervals in brackets."""
    mine = summary[summary["task"] == task.name]
    rows = []
    for (model, optimizer), group in mine.groupby(["model", "optimizer"]):
        row = {"model": model, "optimizer": optimizer}
        for metric in metrics_of(task):
            s = group.loc[group["metric"] == metric].iloc[0]
            text = f"{s['pooled']:.3f} [{s['ci_low']:.3f}, {s['ci_high']:.3f}]"
            row[LABELS[metric]] = "" if np.isnan(s["pooled"]) else text
        row["parameters"] = f"{s['n_params']:,}" if s["n_params"] else ""
        row["CPU s a fit"] = f"{s['cpu_seconds_per_fit']:.1f}"
        row["epoch"] = f"{s['median_epoch']:.0f}" if s["median_epoch"] else ""
        rows.append(row)
    return in_order(pd.DataFrame(rows)).replace("-", "")


def plot_task(summary, task):
    """Plot the main metric of every run with its interval."""
    metric = MAIN[task.classifies]
    mine = in_order(
        summary[(summary["task"] == task.name) & (summary["metric"] == metric)]
    )[::-1]
    figure, ax = plt.subplots(figsize=(8, 0.32 * len(mine) + 1), layout="constrained")
    colors = {"AdamW": "C0", "-": "0.4"}
    for i, (_, row) in enumerate(mine.iterrows()):
        color = colors.get(row["optimizer"], "C1")
        ax.plot([row["ci_low"], row["ci_high"]], [i, i], color=color)
        ax.plot(row["pooled"], i, "o", color=color)
    mean = mine.loc[mine["model"] == "mean predictor", "pooled"]
    if len(mean):
        ax.axvline(mean.iloc[0], color="0.4", ls=":")
    labels = [
        m if o == "-" else f"{m}, {o}"
        for m, o in zip(mine["model"], mine["optimizer"], strict=True)
    ]
    ax.set_yticks(np.arange(len(mine)), labels)
    ax.set(
        title=task.name.capitalize(),
        xlabel=f"{LABELS[metric]}, pooled, lower is better; 95 % over subjects",
    )
    return figure


def plot_comparisons(comparisons):
    """Plot the differences to AdamW, a panel for each task."""
    tasks = list(dict.fromkeys(comparisons["task"]))
    sizes = [(comparisons["task"] == task).sum() for task in tasks]
    figure, axes = plt.subplots(
        len(tasks), figsize=(8, 0.26 * sum(sizes) + 0.9 * len(tasks)),
        height_ratios=[n + 1 for n in sizes], layout="constrained", squeeze=False,
    )  # fmt: skip
    for ax, task in zip(axes[:, 0], tasks, strict=True):
        mine = in_order(comparisons[comparisons["task"] == task])[::-1]
        rows = np.arange(len(mine))
        ax.hlines(rows, mine["ci_low"], mine["ci_high"], color="C1")
        sure = mine["p_holm"] < 0.05
        ax.plot(mine["difference"], rows, "o", color="C1", mfc="w")
        ax.plot(mine["difference"][sure], rows[sure], "o", color="C1")
        ax.axvline(0, color="0.4", ls=":")
        ax.set_yticks(rows, mine["model"] + ", " + mine["optimizer"])
        metric = LABELS[mine["metric"].iloc[0]]
        ax.set(title=task.capitalize(), xlabel=f"{metric}, less AdamW's")
        ax.set_ylim(-0.7, len(mine) - 0.3)
    return figure
