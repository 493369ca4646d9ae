"""From a configuration to a net: the only place where all parts meet."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from braindecode import EEGRegressor
from braindecode.augmentation import AugmentedDataLoader

from braindecode_sam.augmentation import GaussianNoise, TimeShift
from braindecode_sam.callbacks import SAMCallback, SeedCallback, WindowCheck
from braindecode_sam.checks import is_missing_a_column
from braindecode_sam.configs import (
    AugmentationConfig,
    OptimizerConfig,
    TrainingConfig,
    load_config,
)
from braindecode_sam.device import resolve_device
from braindecode_sam.optim import SAM


class Regressor(EEGRegressor):
    """An EEGRegressor that goes by scikit-learn's conventions.

    Where :class:`braindecode.EEGRegressor` does not:

    - ``fit`` returns the net;
    - fitted to an array of targets of shape (n_windows,) it predicts that shape, so
      that ensembles such as ``VotingRegressor`` can average;
    - targets without a column, of a windows dataset or given to ``partial_fit``, are
      compared with the one output of their own window, not with all of the batch;
    - an initialized net keeps its weights in ``partial_fit`` and, with
      ``warm_start=True``, in ``fit``;
    - ``set_params(optimizer=torch.optim.AdamW)`` takes the options of SAM, and the
      callback named ``sam``, away with SAM.

    :func:`make_regressor` builds one.

    Examples
    --------
    >>> import numpy as np
    >>> from braindecode_sam import SAM
    >>> from braindecode_sam.estimators import Regressor
    >>> X = np.random.default_rng(0).normal(size=(8, 4, 200)).astype("float32")
    >>> net = Regressor(
    ...     "FastEEGNeX", optimizer=SAM, max_epochs=1, batch_size=4, verbose=0,
    ...     train_split=None)
    >>> net.fit(X, np.arange(8.0, dtype="float32")).predict(X).shape
    (8,)
    """

    has_flat_targets_ = False

    def fit(self, X: Any, y: Any = None, **fit_params: Any) -> Regressor:
        """Fit; see :meth:`braindecode.EEGRegressor.fit`. Returns the net."""
        self._keep_weights(self.warm_start)
        super().fit(X, y, **fit_params)
        self._note_targets(y)  # only now: braindecode's fit calls partial_fit
        return self

    def partial_fit(
        self, X: Any, y: Any = None, classes: Any = None, **fit_params: Any
    ) -> Regressor:
        """Go on; see :meth:`braindecode.EEGRegressor.partial_fit`."""
        self._keep_weights(True)
        super().partial_fit(X, y, classes=classes, **fit_params)
        self._note_targets(y)
        return self

    def predict(self, X: Any) -> Any:
        """Predict, in the shape of the targets that the net was fitted to."""
        predicted = super().predict(X)
        is_column = predicted.shape[1:] == (1,)
        return predicted[:, 0] if self.has_flat_targets_ and is_column else predicted

    def get_loss(self, y_pred: Any, y_true: Any, *args: Any, **kwargs: Any) -> Any:
        """Compare predictions and targets, the latter in the shape of the former."""
        if is_missing_a_column(y_pred, y_true):
            y_true = y_true[:, None]
        return super().get_loss(y_pred, y_true, *args, **kwargs)

    def set_params(self, **params: Any) -> Regressor:
        """Set parameters; another optimizer does not get the options of SAM.

        Raises
        ------
        ValueError
            If the optimizer of an initialized net is to be another one.
        """
        before, after = self.optimizer, params.get("optimizer", self.optimizer)
        if after is not before:
            if getattr(self, "initialized_", False):
                raise ValueError(
                    "The optimizer of an initialized net cannot be set to another one,"
                    f" got optimizer={after!r}; expected it to be set on"
                    " sklearn.base.clone(net)."
                )
            self._take_options(before, after, params)
        if self._has_sam_off() and params.get("callbacks__sam", "") is None:
            del params["callbacks__sam"]  # skorch cannot do it twice
        super().set_params(**params)
        return self

    def _take_options(self, before: Any, after: Any, params: dict[str, Any]) -> None:
        """Take the options of one optimizer away, and put back what was taken."""
        taken = self.__dict__.setdefault("taken_", {})
        for option in _own_options(before) - _own_options(after):
            for name in [name for name in vars(self) if _is_spelling(name, option)]:
                taken[name] = getattr(self, name)
                delattr(self, name)
        for name in list(taken):
            if any(_is_spelling(name, option) for option in _own_options(after)):
                params.setdefault(name, taken.pop(name))
        # As skorch switches a callback off, which it cannot do twice, nor undo.
        names = [c[0] for c in self.callbacks or [] if isinstance(c, tuple)]
        if not _is_sam(after) and "sam" in names and not self._has_sam_off():
            taken["callbacks__sam"] = self.callbacks__sam = None
        elif _is_sam(after) and "callbacks__sam" in taken:
            del taken["callbacks__sam"], self.callbacks__sam

    def _has_sam_off(self) -> bool:
        return vars(self).get("callbacks__sam", "") is None

    def _keep_weights(self, is_wanted: bool) -> None:
        # braindecode would build the module again, for what it knows of the data.
        if is_wanted and getattr(self, "initialized_", False):
            self.signal_args_set_ = True

    def _note_targets(self, y: Any) -> None:
        self.has_flat_targets_ = y is not None and np.ndim(y) == 1


def _own_options(optimizer: Any) -> set[str]:
    """Names of the options that a SAM has beside those of its base."""
    if not _is_sam(optimizer):
        return set()
    arguments = set(inspect.signature(optimizer).parameters)
    return {*optimizer._checks(), *arguments, "base_optimizer"}


def _is_spelling(name: str, option: str) -> bool:
    spelled = f"optimizer__{option}"
    return name == spelled or (
        option == "base_optimizer" and name.startswith(spelled + "__")
    )


def make_regressor(
    config: str | os.PathLike[str] | dict[str, Any] | TrainingConfig = "challenge_1",
    *,
    device: str | torch.device = "auto",
    random_state: int | None = None,
    **overrides: Any,
) -> Regressor:
    """Build an EEGRegressor from a configuration.

    Parameters
    ----------
    config : str, path-like, dict or TrainingConfig, default="challenge_1"
        What :func:`braindecode_sam.load_config` accepts.
    device : str or torch.device, default="auto"
        What :func:`braindecode_sam.resolve_device` accepts.
    random_state : int or None, default=None
        Seed of all that is drawn for the net, by a callback named ``seed``; see
        :class:`~braindecode_sam.callbacks.SeedCallback`. Pass
        ``callbacks__seed__n_threads=1`` for the same scores in any number of workers.
    **overrides
        Any parameter of an EEGRegressor, over the configuration's: ``max_epochs=3``,
        ``optimizer__base_optimizer=torch.optim.SGD``, ``module__n_chans=19``.
        ``callbacks`` are added to the two that check the data (named
        ``window_check``) and record the sharpness (``sam``), the latter only where
        the optimizer is a SAM. Another ``optimizer=torch.optim.AdamW`` gets the
        configuration's learning rate and weight decay.

    Returns
    -------
    net : Regressor
        An EEGRegressor, not initialized, with :class:`~braindecode_sam.FastEEGNeX` as
        its module (pass ``module="EEGNeX"`` for the stock one). All windows are trained
        on (``train_split=None``); pass ``train_split=SubjectSplit(0.2)`` to validate
        inside.

    Raises
    ------
    ValueError
        If the configuration is not valid or the device does not exist.
    RuntimeError
        If PyTorch cannot use the device here.

    Examples
    --------
    >>> from braindecode_sam import make_regressor
    >>> net = make_regressor("challenge_1", device="cpu", max_epochs=3)
    >>> net.max_epochs, net.batch_size, net.optimizer.__name__
    (3, 32, 'SAM')
    """
    config = load_config(config)
    optimizer = overrides.pop("optimizer", SAM)
    settings = {
        **_module_settings(config.model),
        **_optimizer_settings(config.optimizer, optimizer),
        **_augmentation_settings(config.augmentation),
        **dict(config.training),
        "train_split": None,
        "callbacks": [
            *([] if random_state is None else [("seed", SeedCallback(random_state))]),
            *_callbacks(optimizer, overrides.pop("callbacks", None)),
        ],
        "device": resolve_device(device),
    }
    return Regressor(**(settings | overrides))


def _is_sam(optimizer: Any) -> bool:
    return isinstance(optimizer, type) and issubclass(optimizer, SAM)


def _callbacks(optimizer: Any, further: Iterable[Any] | None) -> list[Any]:
    sam = [("sam", SAMCallback())] if _is_sam(optimizer) else []
    return [("window_check", WindowCheck()), *sam, *(further or [])]


def _module_settings(model: Any) -> dict[str, Any]:
    chosen = model.model_dump(exclude_unset=True, exclude={"model_name_"})
    return {
        "module": f"Fast{model.model_name_}",
        **{f"module__{name}": value for name, value in chosen.items()},
    }


def _optimizer_settings(config: OptimizerConfig, optimizer: Any) -> dict[str, Any]:
    options = dict(config)
    lr = options.pop("lr")
    if not _is_sam(optimizer):
        options = {"weight_decay": config.weight_decay}
    settings = {f"optimizer__{name}": value for name, value in options.items()}
    return {"optimizer": optimizer, "lr": lr, **settings}


def _augmentation_settings(augmentation: AugmentationConfig) -> dict[str, Any]:
    probability = augmentation.probability
    return {
        "iterator_train": AugmentedDataLoader,
        "iterator_train__transforms": [
            TimeShift(probability, max_shift=augmentation.max_shift),
            GaussianNoise(probability, std=augmentation.noise_std),
        ],
    }
