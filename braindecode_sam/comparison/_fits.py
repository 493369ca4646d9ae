"""Fits of estimators on the same folds and seeds, and storage of predictions."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import re
import time
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, clone
from sklearn.model_selection import cross_validate
from skorch import NeuralNet
from skorch.callbacks import LoadInitState

from braindecode_sam._checks import are_probabilities
from braindecode_sam._fingerprint import (
    callbacks_given,
    described,
    differences,
)
from braindecode_sam.callbacks import WeightSnapshots

# Parameters that may differ between runs that share a folder.
_IGNORED_PARAMS = (
    "verbose",
    "n_jobs",
    "device",
    "num_workers",
    "pin_memory",
    "n_threads",
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

    Parameters
    ----------
    path : path-like
        Folder that is new, empty, or of an earlier comparison of the same data.
    data : dict of str to str
        Digests of the data that all fits share.
    estimators : dict of str to dict
        Settings of each estimator.

    Raises
    ------
    ValueError
        If the folder holds anything else. It is not modified.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        data: Mapping[str, str],
        estimators: Mapping[str, Mapping[str, str]],
    ) -> None:
        self.path = Path(path).expanduser()
        self.digests = {
            name: joblib.hash([sorted(data.items()), sorted(settings.items())])
            for name, settings in estimators.items()
        }
        file = self.path / "comparison.json"
        before: dict[str, Any] = {"data": dict(data), "estimators": {}}
        if file.exists():
            before = _read_json(file)
        elif self.path.is_dir() and any(self.path.iterdir()):
            raise ValueError(
                "folder must be new, empty or of an earlier comparison, got"
                f" {str(self.path)!r}, which holds"
                f" {min(p.name for p in self.path.iterdir())!r}"
            )
        changes = differences(before["data"], data)
        for name in estimators.keys() & before["estimators"].keys():
            changed = differences(before["estimators"][name], estimators[name])
            changes |= {f"{name}: {key}": text for key, text in changed.items()}
        if changes:
            listed = "; ".join(f"{key} {text}" for key, text in changes.items())
            raise ValueError(
                f"folder {str(self.path)!r} belongs to another comparison ({listed});"
                " it was not modified. Use another folder, or those data and settings."
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


def _read_json(file: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(
            f"{str(file)!r} cannot be read ({error}); use another folder"
        ) from error
    return found


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


def check_searched(name: str, estimator: BaseEstimator) -> None:
    """Raise for searches over nets, or over callbacks, which get no seeds."""
    nets = nets_in(estimator)
    for param, value in estimator.get_params(deep=True).items():
        for item in _contents(value):
            hidden = nets_in(item) if isinstance(item, BaseEstimator) else []
            if not all(any(net is known for known in nets) for net in hidden):
                raise ValueError(
                    f"{name!r} must not hold nets in {param!r}, where they get no"
                    " seed; expected values of a net's parameters, such as"
                    " {'net__lr': [0.001, 0.01]}"
                )
            for key in item if nets and isinstance(item, Mapping) else []:
                if isinstance(key, str) and key.rpartition("__")[2] == "callbacks":
                    raise ValueError(
                        f"{name!r} must not search over {key!r} in {param!r}, which"
                        " would replace the callback that seeds the net; expected"
                        f" parameters of single callbacks, such as '{key}__ema'"
                    )


def _contents(value: Any) -> Iterator[Any]:
    """Yield a value and, if it is a container, what is in it at any depth."""
    yield value
    if isinstance(value, (Mapping, list, tuple)):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _contents(item)


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


def nets_in(estimator: BaseEstimator) -> list[NeuralNet]:
    """List the skorch nets among an estimator and its parameters."""
    inside = estimator.get_params(deep=True).values()
    return [item for item in (estimator, *inside) if isinstance(item, NeuralNet)]


def seeded(estimator: BaseEstimator, seed: int) -> BaseEstimator:
    """Clone an estimator and set every ``random_state`` in it."""
    estimator = clone(estimator)
    # Not its result, which FrozenEstimator does not return.
    estimator.set_params(**dict.fromkeys(_random_states(estimator), seed))
    return estimator


def has_randomness(estimator: BaseEstimator) -> bool:
    """Return whether an estimator depends on a seed."""
    return bool(_random_states(estimator) or nets_in(estimator))


def _random_states(estimator: BaseEstimator) -> list[str]:
    params = estimator.get_params(deep=True)
    return [name for name in params if name.rpartition("__")[2] == "random_state"]


def _add_callback(net: NeuralNet, name: str, callback: Any) -> None:
    if isinstance(net.callbacks, str):
        raise ValueError(
            "callbacks must be a list or None, so that a"
            f" {type(callback).__name__} can be added, got {net.callbacks!r}"
        )
    if not any(isinstance(c, type(callback)) for c in callbacks_given(net.callbacks)):
        # First, since a callback that stops the training prevents later ones.
        net.set_params(callbacks=[(name, callback), *(net.callbacks or [])])


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

    Parameters
    ----------
    fits : list of Fit
        Fits to run.
    estimators : dict of str to estimator
        Estimators by name, which are cloned.
    X, y : array-like, ndarray
        All windows and their targets.
    splits : list of tuple of ndarray
        Training and test rows of each fold.
    folder : Folder or None
        Storage of finished fits.
    n_jobs, verbose : int
        As in joblib. The number of fits is printed unless `verbose` is 0.
    **options
        Options of :func:`_fit`.
    """
    results = {} if folder is None else _finished(fits, folder)
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


def _finished(fits: list[Fit], folder: Folder) -> dict[Fit, dict[str, Any]]:
    found = {fit: folder.read(fit) for fit in fits}
    return {fit: result for fit, result in found.items() if result is not None}


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

    Returns
    -------
    fit : Fit
        The fit.
    result : dict of str to ndarray
        "y_pred" of shape (n_test, n_columns), "seconds" (wall clock) and "cpu_seconds"
        (processor) of the fit, "n_epochs" and "n_params". With `by_epoch` also
        "by_epoch" of shape (n_epochs, n_test, n_columns).
    """
    estimator = seeded(estimator, fit.seed)
    nets = nets_in(estimator)
    if by_epoch:
        for net in nets:
            _add_callback(net, "comparison_snapshots", WeightSnapshots())
    test = split[1]
    cpu = time.process_time()
    try:
        with joblib.parallel_config("sequential"):  # not on the cluster again
            found = cross_validate(
                estimator, X, y, cv=[split], scoring=_no_score, return_estimator=True,
                params=dict(params.get(fit.estimator, {})), error_score="raise",
            )  # fmt: skip
        cpu = time.process_time() - cpu
        fitted = found["estimator"][0]
        predict = functools.partial(
            _predict,
            fitted,
            classes=classes,
            n_outputs=1 if y.ndim == 1 else y.shape[1],
        )
        result = {
            "y_pred": predict(X[test]),
            "seconds": found["fit_time"][0],
            "cpu_seconds": cpu,
            **_facts_of(fitted),
        }
        if by_epoch and nets:
            result["by_epoch"] = _predict_by_epoch(fitted, predict, X[test])
    except Exception as error:
        error.add_note(f"Raised in the fit of {fit}.")
        raise
    return fit, result


def _no_score(estimator: Any, X: Any, y: Any) -> float:
    return 0.0


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
