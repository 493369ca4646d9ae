"""Conventions that the regressor and the classifier share."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from typing import Any, Self

import numpy as np
import torch
from braindecode.datautil import infer_signal_properties
from braindecode.models.util import interpolated_models_dict, models_dict
from skorch import NeuralNet

from braindecode_sam._arguments import check_integer
from braindecode_sam._random import seed_own_generators, seeded
from braindecode_sam.threads import share_cores, torch_threads


class Conventions(NeuralNet):
    """Mixin for regressors and classifiers, to precede braindecode's class."""

    # Trailing underscores, since skorch treats other attributes as parameters.
    groups_: Any = None  # while the net is fitted
    has_flat_targets_ = False  # the targets have no column
    inferred_: dict[str, Any] = {}  # noqa: RUF012, replaced and never changed
    # With scikit-learn's metadata routing, groups reach the net without a request.
    __metadata_request__fit = {"groups": True}  # noqa: RUF012, scikit-learn's form
    __metadata_request__partial_fit = {"groups": True}  # noqa: RUF012

    def __init__(
        self,
        module: Any,
        *args: Any,
        random_state: int | None = None,
        n_threads: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(module, *args, **kwargs)
        self.random_state = random_state
        self.n_threads = n_threads

    def fit(self, X: Any, y: Any = None, groups: Any = None, **fit_params: Any) -> Self:
        """Fit the net, and return it.

        Parameters
        ----------
        X : array-like, mne.Epochs or torch.utils.data.Dataset
            Windows.
        y : array-like of shape (n_windows,) or (n_windows, n_outputs), or None
            Targets of a regressor, or labels of shape (n_windows,) of a classifier,
            which are text, integers or booleans. None only for a dataset, which carries
            its targets.
        groups : array-like of shape (n_windows,) or None, default=None
            Subject of each window, for ``train_split=SubjectSplit(...)``.
        **fit_params
            See :meth:`skorch.NeuralNet.fit`.

        Returns
        -------
        net : NeuralNet
            The net itself.

        Raises
        ------
        ValueError
            If `y` does not hold numbers or, for a classifier, if it holds no labels, a
            single class or a label that is not in `classes`, or if `class_weight` does
            not fit the classes or the criterion.
        """
        _check_no_list(X)
        is_new = not (self.warm_start and self._is_initialized())
        # braindecode's flag: whether the shape of the windows is already known.
        self.signal_args_set_ = not is_new
        y = self._targets_of(X, y, None, is_new)
        with self._split_by(groups):
            super().fit(X, y, **fit_params)
        self.has_flat_targets_ = y is not None and np.ndim(y) == 1
        return self

    def partial_fit(
        self,
        X: Any,
        y: Any = None,
        classes: Any = None,
        groups: Any = None,
        **fit_params: Any,
    ) -> Self:
        """Continue training.

        Parameters
        ----------
        X, y, groups
            As in :meth:`fit`.
        classes : list of labels or None, default=None
            All labels of a classifier. Required in the first call if its `y` lacks some
            and the parameter `classes` is None. Later calls may repeat them.
        **fit_params
            See :meth:`skorch.NeuralNet.partial_fit`.

        Returns
        -------
        net : NeuralNet
            The net itself.

        Raises
        ------
        ValueError
            As in :meth:`fit`, and if `classes` differ from the known ones.
        """
        is_whole_call = "_routing_method" not in fit_params  # not within skorch's fit
        if is_whole_call:
            _check_no_list(X)
            y = self._targets_of(X, y, classes, False)
        share_cores()
        # Otherwise braindecode would build another module for the shape that it infers.
        self.signal_args_set_ = self._is_initialized()
        with self._split_by(groups), self._threads(), self._seeded_training():
            super().partial_fit(X, y, classes=classes, **fit_params)
        if is_whole_call:
            self.has_flat_targets_ = y is not None and np.ndim(y) == 1
        return self

    def _targets_of(self, X: Any, y: Any, classes: Any, is_new: bool) -> Any:
        raise NotImplementedError

    def evaluation_step(self, batch: Any, training: bool = False) -> Any:
        """Predict a batch with `n_threads` threads."""
        with self._threads():
            return super().evaluation_step(batch, training=training)

    def __repr__(self) -> str:
        """Show the parameters that differ from the defaults."""
        defaults = {
            param.name: param.default
            for cls in reversed(type(self).__mro__[:-1])
            for param in inspect.signature(cls).parameters.values()
        }
        shown = [
            f"{name}={getattr(value, '__name__', None) or repr(value)}"
            for name, value in sorted(self.get_params(deep=False).items())
            if not name.startswith("_")  # skorch's own
            and (name not in defaults or repr(value) != repr(defaults[name]))
        ]
        return f"{type(self).__name__}({', '.join(shown)})"

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.input_tags.three_d_array = False, True
        tags.non_deterministic = self.random_state is None
        return tags

    def _seed(self) -> int:
        return check_integer("random_state", self.random_state, 0, 2**32 - 1)

    @contextlib.contextmanager
    def _seeded_training(self) -> Iterator[None]:
        """Seed all generators from which a training draws, unless it is continued."""
        is_continued = self._is_initialized() and len(self.history)
        if self.random_state is None or is_continued:
            yield
            return
        seed_own_generators(self, self._seed())
        # Not the numbers that the initial weights were drawn from.
        sequence = np.random.SeedSequence(self._seed())
        with seeded(int(sequence.generate_state(1)[0])):
            yield

    def _threads(self) -> contextlib.AbstractContextManager[None]:
        if self.n_threads is None:
            return contextlib.nullcontext()
        return torch_threads(check_integer("n_threads", self.n_threads, 1))

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
        """Initialize the module with its seed, or take the instance that was given.

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
        with self._seeded_initialization():
            super().initialize_module()
        return self

    def initialize_criterion(self) -> Self:
        """Initialize the criterion with its seed.

        Returns
        -------
        net : NeuralNet
            The net itself.
        """
        with self._seeded_initialization():
            super().initialize_criterion()
        return self

    @contextlib.contextmanager
    def _seeded_initialization(self) -> Iterator[None]:
        with self._threads(), contextlib.ExitStack() as stack:
            if self.random_state is not None:
                stack.enter_context(seeded(self._seed()))
            yield

    def get_params_for(self, prefix: str) -> dict[str, Any]:
        """Return parameters by their prefix, including those inferred from the data."""
        params: dict[str, Any] = super().get_params_for(prefix)
        return {**self.inferred_, **params} if prefix == "module" else params

    def _set_signal_args(self, X: Any, y: Any, classes: Any) -> None:
        """Infer the properties of the data that the module takes.

        braindecode would store them as parameters, so that clones could not be fitted
        to windows of another shape.
        """
        found = self._signal_properties(X, y)
        takes = inspect.signature(self._module_class()).parameters
        self.inferred_ = {
            name: value
            for name, value in found.items()
            if value is not None and name in takes
        }

    def _module_class(self) -> Any:
        """Return the class of the module, or a class that takes nothing."""
        module = self.module
        if isinstance(module, str):  # braindecode raises for an unknown name
            module = models_dict.get(module) or interpolated_models_dict.get(module)
        return (
            object if module is None or isinstance(module, torch.nn.Module) else module
        )

    def __sklearn_clone__(self) -> Any:
        # So that a clone can be initialized for weights that are loaded.
        copied = super().__sklearn_clone__()
        copied.inferred_ = dict(self.inferred_)
        return copied

    def _signal_properties(self, X: Any, y: Any) -> dict[str, Any]:
        found: dict[str, Any] = infer_signal_properties(X, y, mode=self.mode)
        return found

    def _is_initialized(self) -> bool:
        return getattr(self, "initialized_", False)


def _check_no_list(X: Any) -> None:
    # skorch takes a list for several inputs of a module. Scikit-learn's splits make one
    # of mne.Epochs.
    if isinstance(X, (list, tuple)):
        raise TypeError(
            "X must be an array of windows or a Dataset, got a"
            f" {type(X).__name__} of length {len(X)}; make an array with"
            " braindecode_sam.datasets.to_arrays or np.stack"
        )
