"""The study's tasks and models, and how one cell of it is trained and predicted."""

import dataclasses
import itertools
import time
import warnings

import numpy as np
import torch
from _eegmat import read_subtractions
from braindecode import EEGClassifier, EEGRegressor
from scipy.signal import welch
from sklearn.compose import TransformedTargetRegressor
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from skorch.callbacks import EarlyStopping

from braindecode_sam import SAM, optim
from braindecode_sam.callbacks import SeedCallback
from braindecode_sam.datasets import (
    SubjectWindows,
    simulate_response_times,
    to_arrays,
)
from braindecode_sam.model_selection import SubjectSplit

SFREQ = 125.0
BANDS = {"delta": (1, 4), "theta": (4, 8), "alpha": (8, 13), "beta": (13, 30),
         "gamma": (30, 45)}  # fmt: skip
PENALTIES = np.logspace(-2, 6, 9)
BASELINES = ("mean predictor", "ridge on band power")
# Names as published; EEGNet and EEGNeX run as the fast models, which are the same.
MODELS = {
    "CompactCNN": "CompactCNN",
    "EEGNet": "FastEEGNet",
    "EEGNeX": "FastEEGNeX",
    "Deep4Net": "Deep4Net",
    "SeparableEEGNet": "SeparableEEGNet",
}
RHO = 0.05  # as in the source
OPTIMIZERS = {"AdamW": (torch.optim.AdamW, {}), "SAM": (SAM, {"rho": RHO})}
# Tried with EEGNeX only: the family and, in the regressions, other radii.
FAMILY = {name: (getattr(optim, name), {"rho": RHO}) for name in optim.__all__}
RADII = {f"SAM rho={rho}": (SAM, {"rho": rho}) for rho in (0.02, 0.1, 0.2, 0.5)}
RADII["ASAM rho=0.5"] = (SAM, {"rho": 0.5, "adaptive": True})


@dataclasses.dataclass(frozen=True)
class Task:
    """Windows, targets and subjects of one of the study's questions.

    Where no epoch is chosen, EEGNeX trains on all of a fold to the last epoch.
    """

    name: str
    X: np.ndarray
    y: np.ndarray
    subjects: np.ndarray
    classifies: bool = False
    chooses_epoch: bool = True

    @property
    def optimizers(self):
        """Names of the optimizers for each of the nets."""
        if not self.chooses_epoch:
            return {"EEGNeX": [*OPTIMIZERS]}
        nets = {model: [*OPTIMIZERS] for model in MODELS}
        return nets | {
            "EEGNeX": [*FAMILY, "AdamW", *([] if self.classifies else RADII)]
        }


@dataclasses.dataclass(frozen=True, order=True)
class Cell:
    """One fit: the seed comes first, so that whole seeds are finished one by one."""

    seed: int
    task: str
    model: str
    optimizer: str
    fold: int

    @property
    def file_name(self):
        """Name of the file that holds its predictions."""
        parts = (self.task, self.model, self.optimizer, self.fold, self.seed)
        return "_".join(str(part).replace(" ", "-") for part in parts) + ".npz"


@dataclasses.dataclass(frozen=True)
class Settings:
    """What all cells have in common, with the learning rate of the source."""

    n_splits: int = 5
    max_epochs: int = 30
    patience: int = 5
    batch_size: int = 32
    lr: float = 1e-3
    weight_decay: float = 0.01
    valid_size: float = 0.2


def load_tasks(folder):
    """Read EEGMAT for two tasks, simulate the third.

    Parameters
    ----------
    folder : pathlib.Path
        With ``SubjectNN_1.edf`` (rest), ``SubjectNN_2.edf`` (arithmetic) and
        ``subject-info.csv``.

    Returns
    -------
    tasks : dict of str to Task
        "subtractions", "rest or arithmetic", the same "to the end", and "response
        times".
    """
    X, y, subjects = read_subtractions(folder, "Subject*_2.edf", SFREQ)
    resting, _, resting_subjects = read_subtractions(folder, "Subject*_1.edf", SFREQ)
    simulated = simulate_response_times(
        24, 12, n_chans=19, n_times=500, sfreq=SFREQ, random_state=0
    )
    both = np.concatenate([resting, X])
    is_arithmetic = np.repeat([0, 1], [len(resting), len(X)])
    of = np.concatenate([resting_subjects, subjects])
    rest_or_arithmetic = Task("rest or arithmetic", both, is_arithmetic, of, True)
    times = to_arrays(simulated, target="response_time")
    tasks = [
        Task("subtractions", X, y, subjects),
        rest_or_arithmetic,
        dataclasses.replace(
            rest_or_arithmetic,
            name="rest or arithmetic to the end",
            chooses_epoch=False,
        ),
        Task("response times", *times),
    ]
    return {task.name: task for task in tasks}


def all_cells(tasks, n_seeds, n_splits):
    """List the study's cells; what has no seed of its own is fitted once."""
    cells = []
    for task, fold in itertools.product(tasks.values(), range(n_splits)):
        cells += [Cell(0, task.name, name, "-", fold) for name in BASELINES]
        cells += [
            Cell(seed, task.name, model, optimizer, fold)
            for seed in range(n_seeds)
            for model, optimizers in task.optimizers.items()
            for optimizer in optimizers
        ]
    return sorted(cells)


def splits_of(task, n_splits):
    """Give training and test rows of each fold; no subject is on both sides."""
    return list(GroupKFold(n_splits).split(task.X, task.y, task.subjects))


def fit_cell(cell, task, settings):
    """Train on a fold's training subjects and predict its test subjects.

    Returns
    -------
    result : dict of str to ndarray
        Predictions, or probabilities of the second class, of the test rows; seconds
        of the fit by the clock and of the processor, which others do not lengthen;
        number of parameters, and the epoch that was chosen.
    """
    warnings.filterwarnings("ignore")  # not the place to read other libraries' news
    train, test = splits_of(task, settings.n_splits)[cell.fold]
    torch.set_num_threads(1)
    X = SubjectWindows(task.X, task.subjects)
    model = make_model(cell, task, settings)
    fit_options = {}
    if cell.model == "ridge on band power":
        X, fit_options = task.X, {"groups": task.subjects[train]}
    wall, cpu = time.perf_counter(), time.process_time()
    model.fit(X[train], task.y[train], **fit_options)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    predicted = (
        model.predict_proba(X[test]) if task.classifies else model.predict(X[test])
    )
    net = getattr(model, "regressor_", model)
    return {
        "y_pred": predicted[:, 1] if task.classifies else predicted.ravel(),
        "seconds": wall,
        "cpu_seconds": cpu,
        **_facts_of(net),
    }


def _facts_of(net):
    if not hasattr(net, "module_"):
        return {"n_params": 0, "epoch": 0}
    n_params = sum(p.numel() for p in net.module_.parameters())
    stopping = dict(net.callbacks_).get("stopping")
    epoch = len(net.history) if stopping is None else stopping.best_epoch_
    return {"n_params": n_params, "epoch": epoch}


def make_model(cell, task, settings):
    """Build what a cell fits."""
    if cell.model == "mean predictor":
        return (
            DummyClassifier(strategy="prior") if task.classifies else DummyRegressor()
        )
    if cell.model == "ridge on band power":
        return make_ridge(task)
    net = make_net(cell, task, settings)
    if task.classifies:
        return net
    return TransformedTargetRegressor(net, transformer=StandardScaler())


def make_ridge(task):
    """Build a penalized linear model whose penalty is chosen inside the fold."""
    if task.classifies:
        linear, grid = LogisticRegression(max_iter=1000), {"C": 1 / PENALTIES}
    else:
        linear, grid = Ridge(), {"alpha": PENALTIES}
    scoring = "neg_log_loss" if task.classifies else "neg_mean_squared_error"
    steps = (FunctionTransformer(log_band_power), StandardScaler(), linear)
    name = type(linear).__name__.lower()
    grid = {f"{name}__{key}": values for key, values in grid.items()}
    return GridSearchCV(make_pipeline(*steps), grid, cv=GroupKFold(5), scoring=scoring)


def log_band_power(X):
    """Logarithm of the power in five bands, in each channel.

    Parameters
    ----------
    X : ndarray of shape (n_windows, n_chans, n_times)
        EEG at 125 Hz.

    Returns
    -------
    features : ndarray of shape (n_windows, n_chans * 5)
        Natural logarithms.
    """
    freqs, power = welch(X, SFREQ, nperseg=round(2 * SFREQ))
    bands = [
        power[..., (freqs >= low) & (freqs < high)].mean(axis=-1)
        for low, high in BANDS.values()
    ]
    return np.log(np.stack(bands, axis=-1)).reshape(len(X), -1)


def make_net(cell, task, settings):
    """Build a net; to choose its epoch it holds out training subjects."""
    optimizer, options = (OPTIMIZERS | FAMILY | RADII)[cell.optimizer]
    split, callbacks = None, [("seed", SeedCallback(cell.seed, n_threads=1))]
    if task.chooses_epoch:
        split = SubjectSplit(settings.valid_size, random_state=cell.seed)
        stopping = EarlyStopping(patience=settings.patience, load_best=True)
        callbacks.append(("stopping", stopping))
    kind = EEGClassifier if task.classifies else EEGRegressor
    return kind(
        MODELS[cell.model],
        module__n_chans=task.X.shape[1],
        module__n_times=task.X.shape[2],
        module__n_outputs=2 if task.classifies else 1,
        optimizer=optimizer,
        optimizer__weight_decay=settings.weight_decay,
        lr=settings.lr,
        batch_size=settings.batch_size,
        max_epochs=settings.max_epochs,
        train_split=split,
        callbacks=callbacks,
        verbose=0,
        **{f"optimizer__{name}": value for name, value in options.items()},
        **({"classes": [0, 1]} if task.classifies else {}),
    )
