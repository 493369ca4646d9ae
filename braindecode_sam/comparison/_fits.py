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
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, clone
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import cross_validate
from skorch import NeuralNet

from braindecode_sam._checks import are_probabilities
from braindecode_sam._fingerprint import described, differences
from braindecode_sam._random import seed_own_generators, seeded
from braindecode_sam.callbacks import WeightSnapshots
from braindecode_sam.threads import torch_threads

# Parameters that may differ between runs that share a folder, and packages that may not
_MAY_DIFFER = ("verbose", "n_jobs", "device", "pin_memory", "n_threads")
_PACKAGES = (
    "braindecode_sam", "braindecode", "skorch", "scikit-learn", "torch", "numpy",
)  # fmt: skip


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
        shared = {"versions": versions(), "data": dict(data)}
        self._digests = {
            name: joblib.hash([shared, settings])
            for name, settings in estimators.items()
        }
        file = self.path / "comparison.json"
        stored: dict[str, Any] = {**shared, "estimators": {}}
        if file.exists():
            try:
                stored |= {"versions": {}} | json.loads(file.read_text())
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
        pairs = {
            "": (stored["data"], data),
            "version of ": (stored["versions"], shared["versions"]),
        }
        for name in estimators.keys() & stored["estimators"].keys():
            pairs[f"{name}: "] = stored["estimators"][name], estimators[name]
        changes = [
            f"{prefix}{key} {text}"
            for prefix, (before, now) in pairs.items()
            for key, text in differences(before, now).items()
        ]
        if changes:
            raise ValueError(
                f"folder {str(self.path)!r} belongs to another comparison"
                f" ({'; '.join(changes)}); it was not modified. Use another folder, or"
                " those data, settings and versions."
            )
        stored["estimators"] |= estimators
        self.path.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(f".{os.getpid()}.part")
        part.write_text(json.dumps(stored, indent=2))
        part.replace(file)

    def _file_of(self, fit: Fit) -> Path:
        # A hash, since names may be long, differ by case only or hold any character.
        readable = re.sub("[^A-Za-z0-9=.]+", "-", fit.estimator)[:40].strip("-.")
        name = f"{readable}-{joblib.hash(fit.estimator)[:8]}"
        return self.path / name / f"seed_{fit.seed}_fold_{fit.fold}.npz"

    def read(self, fit: Fit) -> dict[str, Any]:
        """Read a fit; empty if it is not stored."""
        file = self._file_of(fit)
        if not file.exists():
            return {}
        try:
            with file.open("rb") as opened, np.load(opened) as found:
                result = dict(found)
        except (EOFError, ValueError, zipfile.BadZipFile):
            result = {}
        # Two comparisons may have started in the same new folder.
        if result.pop("belongs", None) != self._digests[fit.estimator]:
            raise ValueError(
                f"{str(file)!r} is incomplete or a fit of other data or settings;"
                " delete it, or use another folder"
            )
        return result

    def write(self, fit: Fit, result: Mapping[str, Any]) -> None:
        """Store a fit."""
        file = self._file_of(fit)
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(f".{os.getpid()}.part")
        with part.open("wb") as opened:
            np.savez(opened, belongs=self._digests[fit.estimator], **result)
        part.replace(file)


def versions() -> dict[str, str]:
    """Return the versions of the packages on which fits depend."""
    return {name: importlib.metadata.version(name) for name in _PACKAGES}


def settings_of(estimator: BaseEstimator) -> dict[str, str]:
    """Describe the parameters that affect an estimator's predictions."""
    return {
        "class": described(type(estimator)),
        **{
            name: described(value)
            for name, value in estimator.get_params(deep=True).items()
            # Private parameters of nets begin with an underscore.
            if name.rpartition("__")[2] not in _MAY_DIFFER and "___" not in f"__{name}"
        },
    }


def _estimators_in(estimator: BaseEstimator) -> list[BaseEstimator]:
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


def has_frozen(estimator: BaseEstimator) -> bool:
    """Whether a part of an estimator is fitted already."""
    return any(isinstance(item, FrozenEstimator) for item in _estimators_in(estimator))


def nets_in(estimator: BaseEstimator) -> list[NeuralNet]:
    """List the skorch nets among an estimator and its parameters."""
    return [item for item in _estimators_in(estimator) if isinstance(item, NeuralNet)]


def _random_states(estimator: BaseEstimator) -> list[str]:
    params = estimator.get_params(deep=True)
    return [name for name in params if name.rpartition("__")[2] == "random_state"]


def has_randomness(estimator: BaseEstimator) -> bool:
    """Return whether an estimator depends on a seed."""
    inside = _estimators_in(estimator)
    return any(isinstance(e, NeuralNet) or _random_states(e) for e in inside)


def run(
    fits: list[Fit],
    estimators: Mapping[str, BaseEstimator],
    X: Any,
    y: NDArray[Any],
    splits: list[Any],
    *,
    classes: NDArray[Any] | None,
    params: Mapping[str, Mapping[str, Any]],
    by_epoch: bool,
    folder: Folder | None,
    n_jobs: int | None,
    verbose: int,
) -> dict[Fit, dict[str, Any]]:
    """Run the fits that are not in the folder, and return the results of all.

    `splits` are the training and test rows of each fold. See :func:`_fit` for results.
    """
    stored = {} if folder is None else {fit: folder.read(fit) for fit in fits}
    have_epochs = {n for n, e in estimators.items() if by_epoch and nets_in(e)}
    results = {
        fit: result
        for fit, result in stored.items()
        # An earlier run may not have stored the epochs.
        if result and ("by_epoch" in result or fit.estimator not in have_epochs)
    }
    missing = sorted(set(fits) - set(results))
    if verbose:
        found = f", {len(results)} of them found" if results else ""
        n_parallel = joblib.effective_n_jobs(n_jobs)
        print(f"{len(fits)} fits{found}, {n_parallel} in parallel", flush=True)
    jobs = (
        joblib.delayed(_fit)(
            fit, estimators[fit.estimator], X, y, splits[fit.fold], classes,
            params.get(fit.estimator, {}), by_epoch,
        )
        for fit in missing
    )  # fmt: skip
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
    classes: NDArray[Any] | None,
    params: Mapping[str, Any],
    by_epoch: bool,
) -> tuple[Fit, dict[str, Any]]:
    """Train on a fold's training windows and predict its test windows.

    All that draws random numbers is seeded. torch uses one thread, since the rounding
    of sums depends on their number. Generators and threads of the caller are restored.

    The result holds "y_pred" of shape (n_test, n_columns), "seconds" (wall clock) and
    "cpu_seconds" (processor) of the fit, "n_epochs" and "n_params", and with `by_epoch`
    also "by_epoch" of shape (n_epochs, n_test, n_columns).
    """
    try:
        # Sequential, so that a search in a worker does not use the cluster again.
        with torch_threads(1), seeded(fit.seed), joblib.parallel_config("sequential"):
            estimator = clone(estimator)
            for item in _estimators_in(estimator):
                item.set_params(**dict.fromkeys(_random_states(item), fit.seed))
            nets = nets_in(estimator)
            for net in nets:
                seed_own_generators(net, fit.seed)
                if by_epoch:
                    # First, as a callback that stops the training prevents later ones.
                    first = ("comparison_snapshots", WeightSnapshots())
                    net.set_params(callbacks=[first, *(net.callbacks or [])])
            cpu = time.process_time()
            found = cross_validate(
                estimator, X, y, cv=[split], scoring=lambda *args: 0.0,
                params=dict(params), return_estimator=True, error_score="raise",
            )  # fmt: skip
            cpu = time.process_time() - cpu
            fitted, X_test = found["estimator"][0], X[split[1]]
            n_outputs = y[:1].size
            predict = functools.partial(_predict, fitted, classes, n_outputs)
            used = _fitted_nets(fitted)
            result = {
                "y_pred": predict(X_test),
                "seconds": found["fit_time"][0],
                "cpu_seconds": cpu,
                "n_epochs": max((len(net.history) for net in used), default=0),
                "n_params": sum(
                    p.numel() for net in used for p in net.module_.parameters()
                ),
            }
            if by_epoch and nets:
                if len(used) != 1:
                    raise ValueError(
                        "by_epoch needs estimators that predict with a single net, got"
                        f" {type(fitted).__name__} with {len(used)}"
                    )
                snapshots = dict(used[0].callbacks_)["comparison_snapshots"]
                curve = snapshots.predict_by_epoch(used[0], predict, X_test)
                result["by_epoch"] = np.stack(list(curve))
    except Exception as error:
        error.add_note(f"Raised in the fit of {fit}.")
        if classes is not None and classes.dtype.kind == "U" and nets_in(estimator):
            error.add_note(
                "Nets of braindecode and skorch take labels as integers, those of"
                " make_classifier also as text."
            )
        raise
    return fit, result


def _predict(
    estimator: Any, classes: NDArray[Any] | None, n_outputs: int, X: Any
) -> NDArray[np.float64]:
    """Predict values, or probabilities in the order of the classes of all folds."""
    if classes is None:
        found = np.asarray(estimator.predict(X), dtype=float)
        if found.reshape(len(found), -1).shape != (len(X), n_outputs):
            raise ValueError(
                f"{type(estimator).__name__} must predict {n_outputs} columns, as in y,"
                f" for {len(X)} windows, got the shape {found.shape}"
            )
        return found.reshape(len(X), n_outputs)
    found = np.asarray(estimator.predict_proba(X), dtype=float)
    known = np.asarray(estimator.classes_)
    if found.shape != (len(X), len(known)) or not np.isin(known, classes).all():
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
    columns = np.searchsorted(classes, known)
    y_pred[:, columns] = found / found.sum(axis=1, keepdims=True)
    return y_pred


def _fitted_nets(estimator: Any) -> list[NeuralNet]:
    """List the nets that a fitted estimator uses for prediction."""
    if isinstance(estimator, NeuralNet):
        return [estimator] if getattr(estimator, "initialized_", False) else []
    found = []
    for name, value in vars(estimator).items():
        if name == "steps" or name.endswith("_"):
            for item in value if isinstance(value, (list, tuple)) else [value]:
                item = item[-1] if isinstance(item, tuple) else item
                if isinstance(item, BaseEstimator):
                    found += _fitted_nets(item)
    return found


def table_of(results: Mapping[Fit, Mapping[str, Any]]) -> pd.DataFrame:
    """Tabulate seconds, epochs and numbers of parameters of all fits."""
    rows = []
    for fit, result in sorted(results.items()):
        row = {"estimator": fit.estimator, "seed": fit.seed, "fold": fit.fold + 1}
        for name in ("seconds", "cpu_seconds", "n_epochs", "n_params"):
            row[name] = np.asarray(result[name]).item()  # files hold arrays
        rows.append(row)
    return pd.DataFrame(rows)
