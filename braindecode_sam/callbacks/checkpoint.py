"""A callback that writes checkpoints from which training resumes bit for bit."""

from __future__ import annotations

import contextlib
import os
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
from braindecode_sam._random import generator_states, set_generator_states


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

    Ctrl-C while callbacks end an epoch is taken for the end of the training, which
    ``EarlyStopping`` announces in the same way. Ctrl-C within an epoch, and a process
    that is killed at any time, are not.

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

    _state: dict[str, Any] | None = None  # of a file, until it is restored
    _changed = "raise"

    def __init__(
        self, f_checkpoint: str | os.PathLike[str] = "checkpoint.pt", every: int = 1
    ) -> None:
        self.f_checkpoint = f_checkpoint
        self.every = every

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
            changed. "ignore" continues with the current ones. Then, if ``lr`` or a
            setting of the optimizer or of a callback has changed, the optimizer and the
            learning rate schedules start anew. Other callbacks keep their state, unless
            another one has their name. ``max_epochs``, ``device``, ``verbose`` and
            other settings that do not influence the result may always change. Functions
            and classes are compared by name, not by code.
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
        if not any(callback is self for callback in callbacks_given(net.callbacks)):
            raise ValueError(
                "net.callbacks does not contain this ResumableCheckpoint; expected"
                f" callbacks=[checkpoint, ...], got {net.callbacks!r}"
            )
        state = _read(self.f_checkpoint)
        left = max(net.max_epochs - len(state["history"]), 0)
        self._state, self._changed = state, changed
        try:
            net.fit(X, y, epochs=0 if state["stopped"] else left, **fit_params)
        finally:
            self._state = None
        return net

    def on_train_begin(
        self, net: Any, X: Any = None, y: Any = None, **kwargs: Any
    ) -> None:
        """Become the first callback, and compare settings and data.

        Only WeightAveraging, which does the same, may come before.

        Raises
        ------
        ValueError
            If a training is resumed whose settings or data were others.
        """
        # A new list, as skorch is iterating over the current one.
        net.callbacks_ = sorted(net.callbacks_, key=lambda named: named[1] is not self)
        groups = getattr(net, "groups_", None)  # that our nets got in fit
        self._belongs = settings_of(net) | data_of(X, y, groups)
        if self._state is not None:
            changes = differences(self._state["belongs"], self._belongs)
            if changes and self._changed == "raise":
                listed = "; ".join(f"{name} {text}" for name, text in changes.items())
                raise ValueError(
                    f"{str(self.f_checkpoint)!r} is of another training: {listed}."
                    " Expected the settings and data with which it was written, or"
                    " resume(..., changed='ignore') to continue with the current ones."
                )
            # From here on, skorch splits the data.
            set_generator_states(self._state["began"], net)
        self._began = generator_states(net)

    def on_epoch_begin(self, net: Any, **kwargs: Any) -> None:
        """Write, or restore, before other callbacks begin the epoch."""
        n_epochs = len(net.history) - 1
        if self._state is not None:
            self._restore(net)
            net.history.new_epoch()
            net.history.record("epoch", len(net.history))
        elif n_epochs and n_epochs % self.every == 0:
            self._write(net, n_epochs)

    def on_train_end(self, net: Any, **kwargs: Any) -> None:
        """Write, unless training was interrupted within an epoch."""
        n_epochs = len(net.history)
        if self._state is not None:  # no epochs were left
            self._restore(net)
        # skorch's EpochTimer adds "dur" to complete epochs.
        elif n_epochs and "dur" in net.history[-1]:
            self._write(net, n_epochs, stopped=n_epochs < net.max_epochs)

    def _write(self, net: Any, n_epochs: int, stopped: bool = False) -> None:
        learned = {
            name: {k: v for k, v in vars(callback).items() if k.endswith("_")}
            for name, callback in net.callbacks_
        }
        state = {
            "parts": {name: getattr(net, name).state_dict() for name in _parts(net)},
            "trained": [p.requires_grad for _, p in net.get_all_learnable_params()],
            "history": _plain(net.history.to_list()[:n_epochs]),
            "values": {name: _plain_items(items) for name, items in learned.items()},
            "states": {
                name: {
                    attribute: _plain_items(value.state_dict())
                    for attribute, value in items.items()
                    if hasattr(value, "state_dict") and not isinstance(value, type)
                }
                for name, items in learned.items()
            },
            "began": self._began,
            "belongs": self._belongs,
            "generators": generator_states(net),
            "stopped": stopped,
        }
        path = Path(self.f_checkpoint)
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

    def _restore(self, net: Any) -> None:
        state: Any = self._state
        self._state = None
        changes = differences(state["belongs"], self._belongs)
        if _parts(net) != list(state["parts"]):
            raise ValueError(
                f"The checkpoint is of a net with {list(state['parts'])}, but this net"
                f" has {_parts(net)}; expected the same parts."
            )
        # Callbacks, too, write options into the optimizer's groups.
        steps = {"lr", "callbacks", *net._optimizers}
        is_anew = any(name.partition("__")[0] in steps for name in changes)
        for name, part in state["parts"].items():
            if is_anew and name.removesuffix("_") in net._optimizers:
                continue
            try:
                getattr(net, name).load_state_dict(part)
            except (RuntimeError, KeyError, ValueError) as error:
                raise ValueError(
                    f"The checkpoint's {name} does not fit that of this net: {error}"
                ) from error
        params = [p for _, p in net.get_all_learnable_params()]
        for p, is_trained in zip(params, state["trained"], strict=True):
            p.requires_grad_(is_trained)  # a Freezer is past its epoch
        net.history = History(state["history"])
        for name, callback in net.callbacks_:
            if f"callbacks__{name}" in changes:  # it is another one
                continue
            vars(callback).update(state["values"].get(name, {}))
            for attribute, inner in state["states"].get(name, {}).items():
                if not is_anew:
                    getattr(callback, attribute).load_state_dict(inner)
        set_generator_states(state["generators"], net)


def _parts(net: Any) -> list[str]:
    return [name + "_" for name in (*net._modules, *net._criteria, *net._optimizers)]


def _read(path: str | os.PathLike[str]) -> dict[str, Any]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:  # torch raises errors of many types
        raise ValueError(
            f"{str(path)!r} is not a complete checkpoint. It may have been truncated"
            " while it was copied. Expected a file written by ResumableCheckpoint."
        ) from error
    if not (isinstance(state, dict) and "states" in state):
        raise ValueError(
            f"{str(path)!r} was written by other software or by an older version;"
            " expected a file written by this version's ResumableCheckpoint"
        )
    return state


def _plain(value: Any) -> Any:
    """Convert a value to builtins and tensors, which ``weights_only`` admits."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(_plain, value))
    value = value.item() if isinstance(value, np.generic) else value
    kinds = (bool, int, float, complex, str, type(None))
    if type(value) in kinds or isinstance(value, torch.Tensor):
        return value
    raise TypeError(f"a checkpoint holds plain values and tensors, got {value!r}")


def _plain_items(items: dict[str, Any]) -> dict[str, Any]:
    """Leave out the items that a checkpoint cannot hold."""
    kept = {}
    for name, value in items.items():
        with contextlib.suppress(TypeError):
            kept[name] = _plain(value)
    return kept
