"""Fits of estimators on the same folds and seeds, and storage of predictions."""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import json
import os
import re
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, clone
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import cross_validate
from skorch import NeuralNet
from skorch.callbacks import LoadInitState

from braindecode_sam._checks import are_probabilities
from braindecode_sam._fingerprint import callbacks_given, described, differences
from braindecode_sam._random import own_generators, seeded
from braindecode_sam.callbacks import WeightSnapshots

# Parameters that may differ between runs that share a folder.
_IGNORED_PARAMS = ("verbose", "n_jobs", "device", "pin_memory", "n_threads")
# Packages that may not.
_PACKAGES = (
    "braindecode_sam",
    "braindecode",
    "skorch",
    "scikit-learn",
    "torch",
    "numpy",
)


@dataclasses.dataclass(frozen=True, order=True)
class Fit:
    """One fit. The seed is first, so that sorted fits complete seed by seed."""

    seed: int
    fold: int
    estimator: str

    def __str__(self) -> str:
        return f"{self.estimator}, seed {self.seed}, fold {self.fold + 1}"


class Folder:
    """Folder of finished fits. Files are written atomically.

    `data` are digests of the data that all fits share, and `estimators` the settings of
    each. A folder of other data, settings or versions is refused and not modified.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        data: Mapping[str, str],
        estimators: Mapping[str, Mapping[str, str]],
    ) -> None:
        self.path = Path(path).expanduser()
        now = {"versions": versions(), "data": dict(data)}
        self.digests = {
            name: joblib.hash([now, settings]) for name, settings in estimators.items()
        }
        file = self.path / "comparison.json"
        before: dict[str, Any] = {**now, "estimators": {}}
        if file.exists():
            try:
                before |= {"versions": {}} | json.loads(file.read_text())
            except ValueError as error:
                raise ValueError(
                    f"{str(file)!r} cannot be read ({error}); use another folder"
                ) from error
        elif self.path.is_dir() and any(self.path.iterdir()):
            raise ValueError(
                "folder must be new, empty or of an earlier comparison, got"
                f" {str(self.path)!r}, which holds"
                f" {min(p.name for p in self.path.iterdir())!r}"
            )
        changes = differences(before["data"], data)
        changed = differences(before["versions"], now["versions"])
        changes |= {f"version of {name}": text for name, text in changed.items()}
        for name in estimators.keys() & before["estimators"].keys():
            changed = differences(before["estimators"][name], estimators[name])
            changes |= {f"{name}: {key}": text for key, text in changed.items()}
        if changes:
            listed = "; ".join(f"{key} {text}" for key, text in changes.items())
            raise ValueError(
                f"folder {str(self.path)!r} belongs to another comparison ({listed});"
                " it was not modified. Use another folder, or those data, settings and"
                " versions."
            )
        before["estimators"] |= estimators
        self.path.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(f".{os.getpid()}.part")
        part.write_text(json.dumps(before, indent=2))
        part.replace(file)

    def file_of(self, fit: Fit) -> Path:
        """Return the path of a fit's file, for any name of its estimator."""
        readable = re.sub("[^A-Za-z0-9=.]+", "-", fit.estimator)[:40].strip("-.")
        name = f"{readable}-{joblib.hash(fit.estimator)[:8]}"
        return self.path / name / f"seed_{fit.seed}_fold_{fit.fold}.npz"

    def read(self, fit: Fit) -> dict[str, Any] | None:
        """Read a fit; None if it is not stored."""
        file = self.file_of(fit)
        if not file.exists():
            return None
        try:
            with file.open("rb") as opened, np.load(opened) as found:
                result = dict(found)
        except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
            raise ValueError(
                f"{str(file)!r} is not a complete fit ({error}); delete it to run the"
                " fit again"
            ) from error
        # Two comparisons may have started in the same new folder.
        if result.pop("belongs", None) != self.digests[fit.estimator]:
            raise ValueError(
                f"{str(file)!r} is a fit of other data or settings; delete it, or use"
                " another folder"
            )
        return result

    def write(self, fit: Fit, result: Mapping[str, Any]) -> None:
        """Store a fit."""
        file = self.file_of(fit)
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(f".{os.getpid()}.part")
        with part.open("wb") as opened:
            np.savez(opened, belongs=self.digests[fit.estimator], **result)
        part.replace(file)


def versions() -> dict[str, str]:
    """Return the versions of the packages on which fits depend."""
    return {name: importlib.metadata.version(name) for name in _PACKAGES}


def check_callbacks(name: str, net: NeuralNet) -> None:
    """Raise for callbacks that share a file between fits."""
    for callback in callbacks_given(net.callbacks):
        loads = getattr(callback, "load_best", False) and hasattr(callback, "dirname")
        if loads or isinstance(callback, LoadInitState):
            raise ValueError(
                f"{name!r} must not have the callback {type(callback).__name__}, which"
                " loads weights from a file that all fits share; use"
                " EarlyStopping(load_best=True), which keeps them in memory"
            )


def settings_of(estimator: BaseEstimator) -> dict[str, str]:
    """Describe the parameters that affect an estimator's predictions."""
    return {
        "class": described(type(estimator)),
        **{
            name: described(value)
            for name, value in estimator.get_params(deep=True).items()
            # Private parameters of nets begin with an underscore.
            if name.rpartition("__")[2] not in _IGNORED_PARAMS
            and "___" not in f"__{name}"
        },
    }


def estimators_in(estimator: BaseEstimator) -> list[BaseEstimator]:
    """List an estimator and those among its parameters, also in lists and grids."""
    found: dict[int, BaseEstimator] = {}
    rest: list[Any] = [estimator]
    while rest:
        item = rest.pop()
        if isinstance(item, Mapping):
            rest += item.values()
        elif isinstance(item, (list, tuple)):
            rest += item
        elif isinstance(item, BaseEstimator) and id(item) not in found:
            found[id(item)] = item
            if not isinstance(item, FrozenEstimator):
                rest += item.get_params(deep=False).values()
    return list(found.values())


def nets_in(estimator: BaseEstimator) -> list[NeuralNet]:
    """List the skorch nets among an estimator and its parameters."""
    return [item for item in estimators_in(estimator) if isinstance(item, NeuralNet)]


def has_randomness(estimator: BaseEstimator) -> bool:
    """Return whether an estimator depends on a seed."""
    inside = estimators_in(estimator)
    return any(isinstance(e, NeuralNet) or _random_states(e) for e in inside)


def _random_states(estimator: BaseEstimator) -> list[str]:
    params = estimator.get_params(deep=True)
    return [name for name in params if name.rpartition("__")[2] == "random_state"]


def _seeded_clone(estimator: BaseEstimator, seed: int) -> BaseEstimator:
    """Clone an estimator and seed all that draws random numbers in it."""
    estimator = clone(estimator)
    for item in estimators_in(estimator):
        item.set_params(**dict.fromkeys(_random_states(item), seed))
    for net in nets_in(estimator):
        # A transform without a seed holds a copy of the global generator. A worker gets
        # it in the state of another process.
        for container, key in own_generators(net):
            generator = container[key]
            is_torch = isinstance(generator, torch.Generator)
            draw = int(np.random.randint(2**31))
            (generator.manual_seed if is_torch else generator.seed)(draw)
    return estimator


def run(
    fits: list[Fit],
    estimators: Mapping[str, BaseEstimator],
    X: Any,
    y: NDArray[Any],
    splits: list[Any],
    *,
    folder: Folder | None,
    n_jobs: int | None,
    verbose: int,
    **options: Any,
) -> dict[Fit, dict[str, Any]]:
    """Run the fits that are not in the folder, and return the results of all.

    `splits` are the training and test rows of each fold, and `options` those of
    :func:`_fit`.
    """
    stored = {} if folder is None else {fit: folder.read(fit) for fit in fits}
    results = {fit: result for fit, result in stored.items() if result is not None}
    if options["by_epoch"]:  # an earlier run may not have stored it
        with_epochs = {name for name, e in estimators.items() if nets_in(e)}
        results = {
            fit: result
            for fit, result in results.items()
            if "by_epoch" in result or fit.estimator not in with_epochs
        }
    missing = sorted(set(fits) - set(results))
    if verbose:
        found = f", {len(results)} of them found" if results else ""
        n_parallel = joblib.effective_n_jobs(n_jobs)
        print(f"{len(fits)} fits{found}, {n_parallel} in parallel", flush=True)
    jobs = (
        joblib.delayed(_fit)(
            fit, estimators[fit.estimator], X, y, splits[fit.fold], **options
        )
        for fit in missing
    )
    # Unordered, so that each fit is stored as soon as it has finished.
    parallel = joblib.Parallel(n_jobs, verbose=verbose, return_as="generator_unordered")
    for fit, result in parallel(jobs):
        if folder is not None:  # here, since a worker may have another disk
            folder.write(fit, result)
        results[fit] = result
    return results


def _fit(
    fit: Fit,
    estimator: BaseEstimator,
    X: Any,
    y: NDArray[Any],
    split: Any,
    *,
    classes: NDArray[Any] | None,
    by_epoch: bool,
    params: Mapping[str, Mapping[str, Any]],
) -> tuple[Fit, dict[str, Any]]:
    """Train on a fold's training windows and predict its test windows.

    All that draws random numbers is seeded. torch uses one thread, since the rounding
    of sums depends on their number. Generators and threads of the caller are restored.

    The result holds "y_pred" of shape (n_test, n_columns), "seconds" (wall clock) and
    "cpu_seconds" (processor) of the fit, "n_epochs" and "n_params", and with `by_epoch`
    also "by_epoch" of shape (n_epochs, n_test, n_columns).
    """
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        # Sequential, so that a search in a worker does not use the cluster again.
        with seeded(fit.seed), joblib.parallel_config("sequential"):
            estimator = _seeded_clone(estimator, fit.seed)
            nets = nets_in(estimator) if by_epoch else []
            for net in nets:
                # First, since a callback that stops the training prevents later ones.
                snapshots = ("comparison_snapshots", WeightSnapshots())
                net.set_params(callbacks=[snapshots, *(net.callbacks or [])])
            cpu = time.process_time()
            found = cross_validate(
                estimator, X, y, cv=[split], scoring=lambda *args: 0.0,
                params=dict(params.get(fit.estimator, {})),
                return_estimator=True, error_score="raise",
            )  # fmt: skip
            cpu = time.process_time() - cpu
            fitted, X_test = found["estimator"][0], X[split[1]]
            n_outputs = 1 if y.ndim == 1 else y.shape[1]
            predict = functools.partial(
                _predict, fitted, classes=classes, n_outputs=n_outputs
            )
            result = {
                "y_pred": predict(X_test),
                "seconds": found["fit_time"][0],
                "cpu_seconds": cpu,
                **_facts_of(fitted),
            }
            if nets:
                result["by_epoch"] = _predict_by_epoch(fitted, predict, X_test)
    except Exception as error:
        error.add_note(f"Raised in the fit of {fit}.")
        raise
    finally:
        torch.set_num_threads(n_threads)
    return fit, result


def _predict(
    estimator: Any, X: Any, classes: NDArray[Any] | None, n_outputs: int
) -> NDArray[np.float64]:
    if classes is None:
        found = np.asarray(estimator.predict(X), dtype=float).reshape(len(X), -1)
        if found.shape[1] != n_outputs:
            raise ValueError(
                f"{type(estimator).__name__} must predict {n_outputs} columns, as in y,"
                f" got {found.shape[1]}"
            )
        return found
    found = np.asarray(estimator.predict_proba(X), dtype=float)
    known = np.asarray(estimator.classes_)
    unknown = known[~np.isin(known, classes)]
    if len(unknown) or found.shape != (len(X), len(known)):
        raise ValueError(
            f"{type(estimator).__name__} must return a probability for each of its"
            f" classes, all among {classes.tolist()}, got {known.tolist()} and"
            f" probabilities of shape {found.shape}"
        )
    if not are_probabilities(found):
        raise ValueError(
            f"predict_proba of {type(estimator).__name__} must return probabilities,"
            f" which sum to 1 for each window, got {found[0]}"
        )
    # If a training fold lacks a class, so does the estimator.
    y_pred = np.zeros((len(X), len(classes)))
    y_pred[:, np.searchsorted(classes, known)] = found / found.sum(
        axis=1, keepdims=True
    )
    return y_pred


def _predict_by_epoch(estimator: Any, predict: Any, X: Any) -> NDArray[np.float64]:
    nets = fitted_nets(estimator)
    if len(nets) != 1:
        raise ValueError(
            "by_epoch needs estimators that predict with a single net, got"
            f" {type(estimator).__name__} with {len(nets)}"
        )
    snapshots = [c for _, c in nets[0].callbacks_ if isinstance(c, WeightSnapshots)]
    return np.stack(list(snapshots[0].predict_by_epoch(nets[0], predict, X)))


def _facts_of(estimator: Any) -> dict[str, int]:
    nets = fitted_nets(estimator)
    params = (p for net in nets for p in net.module_.parameters())
    return {
        "n_epochs": max((len(net.history) for net in nets), default=0),
        "n_params": sum(p.numel() for p in params),
    }


def fitted_nets(estimator: Any) -> list[NeuralNet]:
    """List the nets that a fitted estimator uses for prediction."""
    if isinstance(estimator, NeuralNet):
        return [estimator] if getattr(estimator, "initialized_", False) else []
    found = []
    for name, value in vars(estimator).items():
        if name == "steps" or name.endswith("_"):
            for item in value if isinstance(value, (list, tuple)) else [value]:
                item = item[-1] if isinstance(item, tuple) else item
                if isinstance(item, BaseEstimator):
                    found += fitted_nets(item)
    return found


def facts_frame(results: Mapping[Fit, Mapping[str, Any]]) -> pd.DataFrame:
    """Tabulate seconds, epochs and numbers of parameters of all fits."""
    names = ("seconds", "cpu_seconds", "n_epochs", "n_params")
    return pd.DataFrame(
        [
            {
                "estimator": fit.estimator,
                "seed": fit.seed,
                "fold": fit.fold + 1,
                # Values read from files are arrays.
                **{name: np.asarray(result[name]).item() for name in names},
            }
            for fit, result in sorted(results.items())
        ]
    )
