"""Does SAM help? One topic at a time, through ``braindecode_sam.comparison``.

Trains a model with the optimizers of a topic, on the same folds of held-out subjects
and seeds. Every finished fit is kept in a folder, so the study can be stopped at any
time and continues where it was. Topics share the fits of an optimizer.

Questions, each with its data:

rest-or-arithmetic    what a person is doing, 24 people (EEGMAT), EEGNeX
rest-or-arithmetic-scaled  the same, with each person's channels scaled to unit spread
response-times        simulated response times, 24 subjects, EEGNeX
p300                  target or frequent stimulus, held-out runs of one person, EEGNet
p300-across-people    the same, held-out people: a negative control

Topics:

rho                   SAM with several rho, compared with AdamW
averaging             averaged weights, with and without SAM, compared with AdamW
rho-and-averaging     both, in one comparison
variants              other variants of SAM, compared with SAM
epoch                 epoch chosen on held-out training subjects, AdamW and SAM
models                four models, each with AdamW and SAM
"""

import argparse
import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from _eegmat import read_subtractions
from braindecode import EEGClassifier, EEGRegressor
from sklearn.compose import TransformedTargetRegressor
from sklearn.preprocessing import StandardScaler
from skorch.callbacks import EarlyStopping

from braindecode_sam import SAM
from braindecode_sam.callbacks import WeightAveraging
from braindecode_sam.comparison import compare
from braindecode_sam.datasets import (
    SubjectScaler,
    SubjectWindows,
    simulate_response_times,
    to_arrays,
)
from braindecode_sam.model_selection import SubjectSplit
from braindecode_sam.optim import (
    AESAM,
    GSAM,
    WSAM,
    FriendlySAM,
    LookSAM,
    MomentumSAM,
)

RESULTS = Path(__file__).with_name("results") / "study"
RHO = 0.1
ADAMW = {"optimizer": torch.optim.AdamW}
SAM_01 = {"optimizer": SAM, "optimizer__rho": RHO}
BOTH = {"AdamW": ADAMW, "SAM rho=0.1": SAM_01}
EMA = {"averaging": WeightAveraging("ema")}
MODELS = {
    "EEGNet": "FastEEGNet",
    "CompactCNN": "CompactCNN",
    "Deep4Net": "Deep4Net",
    "SeparableEEGNet": "SeparableEEGNet",
}
SETTINGS = {
    **BOTH,
    **{f"SAM rho={rho}": {"optimizer": SAM, "optimizer__rho": rho}
       for rho in (0.02, 0.05, 0.2)},
    **{kind.__name__: {"optimizer": kind, "optimizer__rho": RHO}
       for kind in (GSAM, FriendlySAM, LookSAM, AESAM, MomentumSAM)},
    **{f"WSAM gamma={gamma}":
       {"optimizer": WSAM, "optimizer__rho": RHO, "optimizer__gamma": gamma}
       for gamma in (0.7, 0.9)},
    "EMA": {**ADAMW, **EMA},
    "SWA": {**ADAMW, "averaging": WeightAveraging("swa")},
    "SAM rho=0.1, EMA": {**SAM_01, **EMA},
    **{f"{name}, epoch chosen": {**settings, "chooses_epoch": True}
       for name, settings in BOTH.items()},
    **{f"{model}, {name}": {**settings, "module": module}
       for model, module in MODELS.items() for name, settings in BOTH.items()},
}  # fmt: skip
# Settings by topic. The first is the reference of the comparisons.
TOPICS = {
    "rho": ["AdamW", "SAM rho=0.02", "SAM rho=0.05", "SAM rho=0.1", "SAM rho=0.2"],
    "averaging": ["AdamW", "EMA", "SWA", "SAM rho=0.1", "SAM rho=0.1, EMA"],
    "rho-and-averaging": [
        "AdamW", "SAM rho=0.05", "SAM rho=0.1", "SAM rho=0.2",
        "EMA", "SAM rho=0.1, EMA",
    ],
    "variants": [
        "SAM rho=0.1", "GSAM", "FriendlySAM", "LookSAM", "AESAM", "MomentumSAM",
        "WSAM gamma=0.7", "WSAM gamma=0.9", "AdamW",
    ],
    "epoch": [
        "AdamW, epoch chosen", "SAM rho=0.1, epoch chosen", "AdamW", "SAM rho=0.1",
    ],
    "models": [f"{model}, {name}" for model in MODELS for name in BOTH],
}  # fmt: skip


def rest_or_arithmetic(data):
    """Read EEGMAT: 4 s windows of 19 channels at 125 Hz."""
    resting, _, who_rests = read_subtractions(data / "eegmat", "Subject*_1.edf", 125.0)
    busy, _, who = read_subtractions(data / "eegmat", "Subject*_2.edf", 125.0)
    y = np.repeat([0, 1], [len(resting), len(busy)])
    return np.concatenate([resting, busy]), y, np.concatenate([who_rests, who])


def rest_or_arithmetic_scaled(data):
    """Read EEGMAT and scale each person's channels."""
    X, y, who = rest_or_arithmetic(data)
    scaled = SubjectScaler().fit_transform(SubjectWindows(X, who))
    return np.asarray(scaled), y, who


def p300(data, people=(1,), groups="recording"):
    """Read the P300 windows of some people."""
    with np.load(data / "p300" / "p300.npz") as found:
        mine = np.isin(found["subject"], people)
        is_target = (found["y"][mine] == 2).astype(int)
        return found["X"][mine].astype(np.float32), is_target, found[groups][mine]


def response_times(data):
    """Simulate response times."""
    epochs = simulate_response_times(
        24, 12, n_chans=19, n_times=500, sfreq=125.0, random_state=0
    )
    return to_arrays(epochs, target="response_time")


class Question(NamedTuple):
    """Data, model and length of the training."""

    read: Callable
    module: str
    max_epochs: int


QUESTIONS = {
    "rest-or-arithmetic": Question(rest_or_arithmetic, "FastEEGNeX", 20),
    "rest-or-arithmetic-scaled": Question(rest_or_arithmetic_scaled, "FastEEGNeX", 20),
    "response-times": Question(response_times, "FastEEGNeX", 20),
    "p300": Question(p300, "FastEEGNet", 12),
    "p300-across-people": Question(
        functools.partial(p300, people=(1, 2, 3, 4, 5), groups="subject"),
        "FastEEGNet",
        12,
    ),
}


def make_estimator(question, settings, X, y, max_epochs):
    """Build a net; to choose its epoch it holds out training subjects."""
    settings = {"module": question.module, **settings}
    callbacks, split = [], None
    if "averaging" in settings:
        callbacks.append(("averaging", settings.pop("averaging")))
    if settings.pop("chooses_epoch", False):
        split = SubjectSplit(0.2)
        callbacks.append(("stopping", EarlyStopping(patience=5, load_best=True)))
    classifies = y.dtype.kind == "i"
    net = (EEGClassifier if classifies else EEGRegressor)(
        **settings,
        module__n_chans=X.shape[1],
        module__n_times=X.shape[2],
        module__n_outputs=2 if classifies else 1,
        optimizer__weight_decay=0.01,
        lr=1e-3,
        batch_size=32,
        max_epochs=max_epochs,
        train_split=split,
        callbacks=callbacks,
        verbose=0,
        **({"classes": [0, 1]} if classifies else {}),
    )
    if classifies:
        return net
    return TransformedTargetRegressor(net, transformer=StandardScaler())


def summarize(result):
    """Merge scores and comparisons into a table to be read."""
    scores, paired = result.to_frame(), result.comparisons()
    classifies = result.classes is not None
    loss = "Log loss" if classifies else "Squared error over variance"
    kind, metric, sign = (
        ("Balanced accuracy", "balanced_accuracy", 1)
        if classifies
        else ("NRMSE", "neg_nrmse", -1)
    )
    table = pd.DataFrame({loss: scores["loss"].map("{:.3f}".format)})
    table[f"Difference to {result.reference} [95 % interval]"] = [
        f"{d:+.3f} [{low:+.3f}, {high:+.3f}]"
        for d, low, high in paired.reindex(table.index)[
            ["difference", "ci_low", "ci_high"]
        ].to_numpy()
    ]
    table["Better for"] = paired["n_better"].map(
        f"{{}} of {len(result.subjects)}".format
    )
    table["p (Holm)"] = paired["p_holm"].map("{:.2g}".format)
    detectable = paired["smallest_detectable"].map("{:.3f}".format)
    table["Detectable (80 % power)"] = detectable
    table[kind] = (sign * scores[metric]).map("{:.3f}".format)
    table["CPU s per fit"] = scores["cpu_seconds"].map("{:.0f}".format)
    table.loc[result.reference, table.columns[1:5]] = ""
    return table.rename_axis("Estimator")


def main():
    """Run, then report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("question", choices=QUESTIONS)
    parser.add_argument("topic", choices=TOPICS)
    parser.add_argument("data", type=Path, help="folder with eegmat/ and p300/")
    parser.add_argument("--only", nargs="+", help="optimizers of the topic, by name")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--fits", type=Path, default=Path("build/study"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    # For the workers, or each of them repeats what braindecode's imports warn about.
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    question, topic = QUESTIONS[args.question], TOPICS[args.topic]
    names = args.only or topic
    unknown = [name for name in names if name not in topic]
    if unknown:
        parser.error(f"--only must be among {topic}, got {unknown[0]!r}")
    X, y, groups = question.read(args.data)
    max_epochs = args.epochs or question.max_epochs
    estimators = {
        name: make_estimator(question, SETTINGS[name], X, y, max_epochs)
        for name in names
    }
    by_epoch = not any("chooses_epoch" in SETTINGS[name] for name in names)
    result = compare(
        estimators, SubjectWindows(X, groups), y, groups, n_seeds=args.seeds,
        by_epoch=by_epoch, folder=args.fits / args.question, n_jobs=args.jobs,
    )  # fmt: skip
    tables = {
        "scores": result.to_frame(),
        "comparisons": result.comparisons(),
        "summary": summarize(result),
        "subjects": result.subject_losses,
    }
    if by_epoch:
        tables["by_epoch"] = result.by_epoch().set_index("estimator")
    args.results.mkdir(parents=True, exist_ok=True)
    name = f"{args.question}_{args.topic}"
    for kind, table in tables.items():
        table.to_csv(args.results / f"{name}_{kind}.csv", float_format="%.4f")
    result.report(args.fits / f"{name}.html", title=name)
    print(*result.sentences(), sep="\n")


if __name__ == "__main__":
    main()
