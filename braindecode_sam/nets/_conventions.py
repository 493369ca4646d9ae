"""Conventions that the regressor and the classifier share."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from typing import Any, Self

import torch
from skorch import NeuralNet

from braindecode_sam.optim import SAM
from braindecode_sam.threads import share_cores


class Conventions(NeuralNet):
    """Mixin for regressors and classifiers, to precede braindecode's class."""

    groups_: Any = None  # while the net is fitted
    # With scikit-learn's metadata routing, groups reach the net without a request.
    __metadata_request__fit = {"groups": True}  # noqa: RUF012, scikit-learn's form
    __metadata_request__partial_fit = {"groups": True}  # noqa: RUF012

    def fit(self, X: Any, y: Any = None, groups: Any = None, **fit_params: Any) -> Self:
        _check_no_list(X)
        self._keep_weights(self.warm_start)
        with self._split_by(groups):
            super().fit(X, y, **fit_params)
        return self

    def partial_fit(
        self,
        X: Any,
        y: Any = None,
        classes: Any = None,
        groups: Any = None,
        **fit_params: Any,
    ) -> Self:
        _check_no_list(X)
        share_cores()
        self._keep_weights(True)
        with self._split_by(groups):
            super().partial_fit(X, y, classes=classes, **fit_params)
        return self

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.input_tags.three_d_array = False, True
        tags.non_deterministic = True
        return tags

    @contextlib.contextmanager
    def _split_by(self, groups: Any) -> Iterator[None]:
        # skorch would hand them to the module's forward, too.
        before = self.groups_
        self.groups_ = before if groups is None else groups
        try:
            yield
        finally:
            self.groups_ = before

    def get_split_datasets(self, X: Any, y: Any = None, **fit_params: Any) -> Any:
        """Split the data for validation, by the groups if there are any."""
        if self.groups_ is not None and self.train_split is not None:
            fit_params["groups"] = self.groups_
        return super().get_split_datasets(X, y, **fit_params)

    def initialize_module(self) -> Self:
        """Initialize the module, or take the instance that was given.

        Returns
        -------
        net : NeuralNet
            The net itself.

        Raises
        ------
        ValueError
            If the module is an instance, and there are parameters for a new one.
        """
        params = [f"module__{name}" for name in self.get_params_for("module")]
        if params and isinstance(self.module, torch.nn.Module):
            raise ValueError(
                f"module is an instance of {type(self.module).__name__}, whose weights"
                f" would be lost if {', '.join(params)} built another; pass the class,"
                " or no parameters of the module"
            )
        super().initialize_module()
        return self

    def set_params(self, **params: Any) -> Self:
        """Set parameters. A new optimizer does not inherit the options of SAM.

        Parameters
        ----------
        **params
            Parameters of the net.

        Returns
        -------
        net : NeuralNet
            The net itself.

        Raises
        ------
        ValueError
            If `optimizer` changes in an initialized net.
        """
        before, after = self.optimizer, params.get("optimizer", self.optimizer)
        if after is not before:
            if self._is_initialized():
                raise ValueError(
                    "The optimizer of an initialized net cannot be replaced, got"
                    f" optimizer={after!r}; set it on sklearn.base.clone(net)"
                )
            self._exchange_options(before, after, params)
        if self._has_sam_off() and params.get("callbacks__sam", "") is None:
            del params["callbacks__sam"]  # skorch raises the second time
        super().set_params(**params)
        return self

    def _exchange_options(
        self, before: Any, after: Any, params: dict[str, Any]
    ) -> None:
        """Set aside the options of the old optimizer, and restore those of the new."""
        stored = self.__dict__.setdefault("taken_", {})
        for option in _own_options(before) - _own_options(after):
            for name in [name for name in vars(self) if _is_spelling(name, option)]:
                stored[name] = getattr(self, name)
                delattr(self, name)
        for name in list(stored):
            if any(_is_spelling(name, option) for option in _own_options(after)):
                params.setdefault(name, stored.pop(name))
        # Disables the callback as skorch does, which cannot be repeated or undone.
        names = [c[0] for c in self.callbacks or [] if isinstance(c, tuple)]
        if not is_sam(after) and "sam" in names and not self._has_sam_off():
            stored["callbacks__sam"] = self.callbacks__sam = None
        elif is_sam(after) and "callbacks__sam" in stored:
            del stored["callbacks__sam"], self.callbacks__sam

    def _has_sam_off(self) -> bool:
        return vars(self).get("callbacks__sam", "") is None

    def _is_initialized(self) -> bool:
        return getattr(self, "initialized_", False)

    def _keep_weights(self, is_wanted: bool) -> None:
        # Otherwise braindecode infers the signal's shape and rebuilds the module.
        if is_wanted and self._is_initialized():
            self.signal_args_set_ = True


def _check_no_list(X: Any) -> None:
    # skorch takes a list for several inputs of a module. Scikit-learn's splits make one
    # of mne.Epochs.
    if isinstance(X, (list, tuple)):
        raise TypeError(
            "X must be an array of windows or a Dataset, got a"
            f" {type(X).__name__} of length {len(X)}; make an array with"
            " braindecode_sam.datasets.to_arrays or np.stack"
        )


def is_sam(optimizer: Any) -> bool:
    """Return whether a net's optimizer is a SAM."""
    return isinstance(optimizer, type) and issubclass(optimizer, SAM)


def _own_options(optimizer: Any) -> set[str]:
    """Return the names of options that SAM adds to those of its base optimizer."""
    if not is_sam(optimizer):
        return set()
    family = [cls for cls in optimizer.__mro__ if issubclass(cls, SAM)]
    return {name for cls in family for name in inspect.signature(cls).parameters}


def _is_spelling(name: str, option: str) -> bool:
    spelled = f"optimizer__{option}"
    return name == spelled or (
        option == "base_optimizer" and name.startswith(spelled + "__")
    )
