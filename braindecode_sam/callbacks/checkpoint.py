"""A callback that writes checkpoints from which training resumes bit for bit."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Iterable
from numbers import Number
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator
from skorch.callbacks import Callback
from skorch.history import History

from braindecode_sam._arguments import check_choice, check_integer
from braindecode_sam._fingerprint import (
    callbacks_given,
    data_of,
    differences,
    settings_of,
)
from braindecode_sam._random import (
    generator_states,
    own_generators,
    set_generator_states,
    set_state,
    state_of,
)


class ResumableCheckpoint(BaseEstimator, Callback):
    """Write everything that a training needs to resume bit for bit, after each epoch.

    skorch's ``Checkpoint`` writes module, criterion, optimizer and history to separate
    files. This callback writes one file, atomically: a new file replaces the previous
    one only when it is complete. The file also holds the states of the random number
    generators, including those within augmentations, and the state of learning rate
    schedulers, early stopping and other callbacks. It records the settings and the data
    of the training, so that :meth:`resume` can detect changes.

    Parameters
    ----------
    f_checkpoint : str or path-like, default="checkpoint.pt"
        File to write. Set it for each net, since cloned nets, as in ``cross_validate``,
        write to the same file.
    every : int, default=1
        Write every `every` epochs, and always at the end of training.

    Notes
    -----
    The state of a callback consists of its attributes whose names end with an
    underscore, as scikit-learn names what is learned. They must be plain values or
    tensors, or have a ``state_dict``.

    Files are read with ``torch.load(..., weights_only=True)``.

    Examples
    --------
    If this script is killed and runs again, it resumes the training:

    >>> import os, tempfile
    >>> import numpy as np
    >>> from braindecode import EEGRegressor
    >>> from braindecode_sam import SAM
    >>> from braindecode_sam.callbacks import ResumableCheckpoint
    >>> X = np.random.randn(8, 4, 100).astype("float32")
    >>> y = np.arange(8, dtype="float32")
    >>> file = os.path.join(tempfile.mkdtemp(), "run.pt")
    >>> def script():
    ...     checkpoint = ResumableCheckpoint(file)
    ...     net = EEGRegressor(
    ...         "FastEEGNeX", optimizer=SAM, max_epochs=2, batch_size=4,
    ...         verbose=0, train_split=None, callbacks=[checkpoint])
    ...     if checkpoint.exists():
    ...         checkpoint.resume(net, X, y)
    ...     else:
    ...         net.fit(X, y)
    ...     return len(net.history)
    >>> script(), script()
    (2, 2)
    """

    def __init__(
        self, f_checkpoint: str | os.PathLike[str] = "checkpoint.pt", every: int = 1
    ) -> None:
        self.f_checkpoint = f_checkpoint
        self.every = every
        self.resumed_: dict[str, Any] | None = None
        self.began_: dict[str, Any] | None = None
        self.belongs_: dict[str, dict[str, str]] | None = None
        self.options_: list[dict[str, Any]] | None = None
        self.changed_ = "raise"

    def initialize(self) -> Self:
        """Check the parameters. skorch calls this when it initializes the net."""
        check_integer("every", self.every, 1)
        folder = Path(self.f_checkpoint).parent
        if not folder.is_dir():
            raise FileNotFoundError(
                f"f_checkpoint must be in an existing folder, but {str(folder)!r} is"
                f" none; got {str(self.f_checkpoint)!r}"
            )
        return self

    def exists(self) -> bool:
        """Return whether the checkpoint exists."""
        return Path(self.f_checkpoint).exists()

    def resume(
        self,
        net: Any,
        X: Any,
        y: Any = None,
        *,
        changed: str = "raise",
        **fit_params: Any,
    ) -> Any:
        """Fit a net for the remaining epochs.

        A completed training continues if ``max_epochs`` is now larger.

        Parameters
        ----------
        net : skorch.NeuralNet
            Net with the same parameters as before, and with this callback.
        X, y
            The training data as before.
        changed : {"raise", "ignore"}, default="raise"
            What to do if the data or a setting of the net or its callbacks have
            changed. "ignore" continues with the current ones. Then changed options of
            the optimizer take effect. The state of the optimizer is discarded if it,
            its base optimizer or its parameter groups are different. The state of a
            callback is discarded if another one has its name. ``max_epochs``,
            ``device``, ``verbose`` and other settings that do not influence the result
            may always change. Functions and classes are compared by name, not by code.
        **fit_params
            Parameters of ``fit``, as before.

        Returns
        -------
        net : skorch.NeuralNet
            The net, fitted bit for bit as if its training had not been interrupted.

        Raises
        ------
        FileNotFoundError
            If there is no checkpoint.
        ValueError
            If the checkpoint is truncated, the net has other modules or lacks this
            callback, or settings or data have changed.
        """
        check_choice("changed", changed, ("raise", "ignore"))
        self._check_is_among(net.callbacks or [])
        state = read_checkpoint(self.f_checkpoint)
        left = max(net.max_epochs - len(state["history"]), 0)
        self.resumed_, self.changed_ = state, changed
        try:
            net.fit(X, y, epochs=0 if state["stopped"] else left, **fit_params)
        finally:
            self.resumed_ = None
        return net

    def on_train_begin(
        self, net: Any, X: Any = None, y: Any = None, **kwargs: Any
    ) -> None:
        """Record the states of the generators, or restore the checkpoint."""
        state = self.resumed_
        self.belongs_ = {"settings": settings_of(net), "data": data_of(X, y)}
        self.options_ = _options(net)
        if state is not None:
            self._changes(state)
            _check_parts(net, state)
            _set_parts(net, state, (*net._modules, *net._criteria))
            params = [p for _, p in net.get_all_learnable_params()]
            for p, is_trained in zip(params, state["trained"], strict=True):
                p.requires_grad_(is_trained)  # a Freezer is past its epoch
            net.history = History(state["history"])
            _set_all_generators(net, state["began"])
            # Schedulers start from the current groups, and change them.
            self._set_optimizers(net, state)
            # A new list, as skorch is iterating over the current one.
            net.callbacks_ = [("resume", _Resume(self)), *net.callbacks_]
        self.began_ = _all_generators(net)

    def on_epoch_begin(
        self,
        net: Any,
        dataset_train: Any = None,
        dataset_valid: Any = None,
        **kwargs: Any,
    ) -> None:
        """Write, now that all callbacks have completed the last epoch."""
        n_epochs = len(net.history) - 1
        if n_epochs and n_epochs % self.every == 0:
            self._write(net, n_epochs)

    def on_train_end(
        self, net: Any, X: Any = None, y: Any = None, **kwargs: Any
    ) -> None:
        """Write, unless training was interrupted within an epoch."""
        n_epochs = len(net.history)
        if self.resumed_ is not None:  # no epochs were left
            self._restore(net, self.resumed_)
        # skorch's EpochTimer, the first callback, adds "dur" to complete epochs.
        elif n_epochs and "dur" in net.history[-1]:
            self._write(net, n_epochs, stopped=n_epochs < net.max_epochs)

    def __getstate__(self) -> dict[str, Any]:
        transient = dict.fromkeys(("resumed_", "began_", "belongs_", "options_"))
        return {**self.__dict__, **transient}

    def _restore(self, net: Any, state: dict[str, Any]) -> None:
        """Restore what other callbacks changed when training began."""
        net.callbacks_ = [c for c in net.callbacks_ if not isinstance(c[1], _Resume)]
        self._set_optimizers(net, state)
        _set_callbacks(net, state["callbacks"])

    def _set_optimizers(self, net: Any, state: dict[str, Any]) -> None:
        _load_optimizers(net, state, self._changes(state), self.options_ or [])

    def _changes(self, state: dict[str, Any]) -> dict[str, str]:
        """Compare settings and data with those of the checkpoint."""
        now: Any = self.belongs_
        changes = {
            **differences(state["belongs"]["settings"], now["settings"]),
            **differences(state["belongs"]["data"], now["data"]),
        }
        if changes and self.changed_ == "raise":
            listed = "; ".join(f"{name} {change}" for name, change in changes.items())
            raise ValueError(
                f"{str(self.f_checkpoint)!r} is of another training: {listed}. Expected"
                " the settings and data with which it was written, or"
                " resume(..., changed='ignore') to continue with the current ones."
            )
        return changes

    def _write(self, net: Any, n_epochs: int, stopped: bool = False) -> None:
        parts = {name: getattr(net, name).state_dict() for name in _part_names(net)}
        state = {
            "parts": parts,
            "trained": [p.requires_grad for _, p in net.get_all_learnable_params()],
            "history": json.loads(json.dumps(net.history.to_list()[:n_epochs])),
            "callbacks": {
                name: {"class": type(callback).__name__, **_fitted(callback)}
                for name, callback in net.callbacks_
            },
            "options": self.options_,
            "began": self.began_,
            "belongs": self.belongs_,
            "generators": _all_generators(net),
            "stopped": stopped,
        }
        write_checkpoint(state, self.f_checkpoint)

    def _check_is_among(self, callbacks: list[Any]) -> None:
        if not any(callback is self for callback in callbacks_given(callbacks)):
            raise ValueError(
                "net.callbacks does not contain this ResumableCheckpoint; expected"
                f" callbacks=[checkpoint, ...], got {callbacks!r}"
            )


class _Resume(Callback):
    """First of all callbacks in the first epoch that a checkpoint resumes."""

    def __init__(self, checkpoint: ResumableCheckpoint) -> None:
        self.checkpoint = checkpoint

    def on_epoch_begin(
        self,
        net: Any,
        dataset_train: Any = None,
        dataset_valid: Any = None,
        **kwargs: Any,
    ) -> None:
        state: Any = self.checkpoint.resumed_
        self.checkpoint._restore(net, state)
        _set_all_generators(net, state["generators"])
        self.checkpoint.resumed_ = None


def write_checkpoint(state: dict[str, Any], path: str | os.PathLike[str]) -> None:
    """Write a file atomically: to a temporary file, which is then renamed."""
    path = Path(path)
    partial = path.with_name(path.name + ".part")
    try:
        with open(partial, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a file that :func:`write_checkpoint` wrote.

    Raises
    ------
    ValueError
        If the file is truncated, or is not a checkpoint.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except (RuntimeError, OSError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(
            f"{str(path)!r} is not a complete checkpoint. It may have been truncated"
            " while it was copied. Expected a file written by ResumableCheckpoint."
        ) from error
    if not (isinstance(state, dict) and "trained" in state):
        raise ValueError(
            f"{str(path)!r} was written by other software or by an older version;"
            " expected a file written by this version's ResumableCheckpoint"
        )
    return state


NO_OPTIONS = {"n_steps", "initial_lr"}  # entries of a group that users do not set


def _part_names(net: Any) -> list[str]:
    return [name + "_" for name in (*net._modules, *net._criteria, *net._optimizers)]


def _options(net: Any) -> list[dict[str, Any]]:
    """Return the plain options of the optimizer's parameter groups."""
    return [
        {k: _plain(v) for k, v in group.items() if k != "params" and _is_plain(v)}
        for group in net.optimizer_.param_groups
    ]


def _check_parts(net: Any, state: dict[str, Any]) -> None:
    names = _part_names(net)
    if names != list(state["parts"]):
        raise ValueError(
            f"The checkpoint is of a net with {list(state['parts'])}, but this net has"
            f" {names}; expected the same parts."
        )


def _set_parts(net: Any, state: dict[str, Any], names: Iterable[str]) -> None:
    for name in (name + "_" for name in names):
        try:
            getattr(net, name).load_state_dict(state["parts"][name])
        except (RuntimeError, KeyError, ValueError) as error:
            raise ValueError(
                f"The checkpoint's {name} does not fit that of this net: {error}"
            ) from error


def _load_optimizers(
    net: Any,
    state: dict[str, Any],
    changes: dict[str, str],
    options: list[dict[str, Any]],
) -> None:
    before = state["options"]
    if (
        "optimizer" in changes
        or "optimizer__base_optimizer" in changes
        or len(before) != len(options)
    ):
        return  # the new optimizer starts without a state
    _set_parts(net, state, net._optimizers)
    if any(n == "lr" or n.startswith("optimizer__") for n in changes):
        groups = zip(net.optimizer_.param_groups, before, options, strict=True)
        for group, was, now in groups:
            for option in now.keys() - NO_OPTIONS:
                if was.get(option) != now[option]:
                    group[option] = now[option]


# States of callbacks: attributes with a trailing underscore, as scikit-learn names what
# is learned.


def _fitted(callback: Any) -> dict[str, Any]:
    fitted = {}
    for name, value in vars(callback).items():
        if name.endswith("_") and not isinstance(callback, ResumableCheckpoint):
            if hasattr(value, "state_dict") and not isinstance(value, type):
                fitted[name] = {"state_dict": _plain(value.state_dict())}
            elif _is_plain(value):
                fitted[name] = {"value": _plain(value)}
    return fitted


def _set_callbacks(net: Any, states: dict[str, dict[str, Any]]) -> None:
    for name, callback in net.callbacks_:
        fitted = dict(states.get(name, {}))
        if fitted.pop("class", None) != type(callback).__name__:
            continue  # a new callback starts without a state
        for attribute, state in fitted.items():
            if "state_dict" in state:
                getattr(callback, attribute).load_state_dict(state["state_dict"])
            else:
                setattr(callback, attribute, state["value"])


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_is_plain, value.values()))
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (Number, str, torch.Tensor))


def _plain(value: Any) -> Any:
    """Convert NumPy's scalars to Python's, and drop dict items that are not plain."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items() if _is_plain(item)}
    if isinstance(value, (list, tuple)):
        return type(value)(map(_plain, value))
    return value.item() if isinstance(value, np.generic) else value


# Random numbers: the global generators, and those within a net's parameters.


def _all_generators(net: Any) -> dict[str, Any]:
    own = [state_of(container[key]) for container, key in own_generators(net)]
    return {"global": generator_states(), "own": own}


def _set_all_generators(net: Any, states: dict[str, Any]) -> None:
    places = own_generators(net)
    if len(places) == len(states["own"]):  # otherwise the augmentation is another one
        for (container, key), state in zip(places, states["own"], strict=True):
            set_state(container[key], state)
    set_generator_states(states["global"])
