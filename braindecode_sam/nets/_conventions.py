"""Conventions that the regressor and the classifier share."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from typing import Any, Self

import numpy as np
import torch
from braindecode.datautil import infer_signal_properties
from braindecode.models import util
from skorch import NeuralNet

from braindecode_sam._arguments import check_integer
from braindecode_sam._fingerprint import described
from braindecode_sam._random import seed_own_generators, seeded
from braindecode_sam.threads import share_cores, torch_threads


class Conventions(NeuralNet):
    """Mixin for regressors and classifiers, to precede braindecode's class."""

    # Trailing underscores, since skorch treats other attributes as parameters.
    groups_: Any = None  # those of fit, while the net trains
    is_training_ = False
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
            Targets of a regressor, or labels of shape (n_windows,) of a classifier
            (text, integers or booleans). None only for a dataset, which carries its
            targets.
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
        TypeError
            If `X` is a list, which skorch takes for several inputs.
        ValueError
            If `y` does not hold numbers or, for a classifier, if it holds no labels, a
            single class or a label that is not in `classes`, or if `class_weight` does
            not fit the classes or the criterion.
        """
        is_new = not (self.warm_start and self.initialized_)
        y = self._prepare(X, y, None, is_new)
        super().fit(X, y, groups=groups, **fit_params)  # calls partial_fit
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
        if "_routing_method" not in fit_params:  # or it is part of fit, which prepares
            y = self._prepare(X, y, classes, not self.initialized_)
        share_cores()
        seed = self._seed()
        if self.initialized_ and len(self.history):
            seed = None  # training continues
        if seed is not None:
            seed_own_generators(self, seed)
            # Not the numbers that the initial weights were drawn from.
            seed = int(np.random.SeedSequence(seed).generate_state(1)[0])
        self.groups_, self.is_training_ = groups, True
        try:
            with self._with_threads_and(seed):
                super().partial_fit(X, y, classes=classes, **fit_params)
        finally:
            self.groups_, self.is_training_ = None, False
        return self

    def _prepare(self, X: Any, y: Any, classes: Any, is_new: bool) -> Any:
        """Take from the data what a module needs to be built; return the targets."""
        # skorch takes a list for several inputs of a module. Scikit-learn's splits make
        # one of mne.Epochs.
        if isinstance(X, (list, tuple)):
            raise TypeError(
                "X must be an array of windows or a Dataset, got a"
                f" {type(X).__name__} of length {len(X)}; make an array with"
                " braindecode_sam.datasets.to_arrays or np.stack"
            )
        y = self._targets_of(X, y, classes, is_new)
        if is_new:
            found = self._signal_properties(X, y)
            if "chs_info" in found:  # mne.Epochs
                found["n_chans"] = len(found["chs_info"])
            self.inferred_ = {n: v for n, v in found.items() if v is not None}
        # braindecode would set parameters, so that clones could not be fitted to
        # windows of another shape, and loaded weights would be lost.
        self.signal_args_set_ = True
        return y

    def _targets_of(self, X: Any, y: Any, classes: Any, is_new: bool) -> Any:
        """Return the targets as a net trains on them, after noting what they are."""
        raise NotImplementedError

    def get_split_datasets(self, X: Any, y: Any = None, **fit_params: Any) -> Any:
        """Split the data for validation, by the groups if there are any."""
        # Not in fit_params of fit, which skorch passes to the module's forward, too.
        if self.groups_ is not None and self.train_split is not None:
            fit_params["groups"] = self.groups_
        return super().get_split_datasets(X, y, **fit_params)

    # What the module takes from the data

    def _signal_properties(self, X: Any, y: Any) -> dict[str, Any]:
        """Infer `n_chans`, `n_times` and so on from the data."""
        found: dict[str, Any] = infer_signal_properties(X, y, mode=self.mode)
        return found

    def get_params_for(self, prefix: str) -> dict[str, Any]:
        """Return parameters by their prefix, including those inferred from the data."""
        params: dict[str, Any] = super().get_params_for(prefix)
        if prefix != "module" or isinstance(self.module, torch.nn.Module):
            return params
        module = self.module
        if isinstance(module, str):  # braindecode raises for an unknown name
            # Since braindecode 1.8.
            others = getattr(util, "interpolated_models_dict", {})
            module = {**others, **util.models_dict}.get(module, object)
        takes = inspect.signature(module).parameters
        names = {"n_chans", "n_times", "n_outputs"} | takes.keys()
        if not any(p.kind is p.VAR_KEYWORD for p in takes.values()):
            names &= takes.keys()
        return {n: v for n, v in self.inferred_.items() if n in names} | params

    def __sklearn_clone__(self) -> Any:
        # So that a clone can be initialized for weights that are loaded.
        copied = super().__sklearn_clone__()
        copied.inferred_ = self.inferred_
        return copied

    # Random numbers and threads

    def initialize_module(self) -> Self:
        """Initialize the module with the seed; see skorch.

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
        with self._with_threads_and(self._seed()):
            super().initialize_module()
        return self

    def initialize_criterion(self) -> Self:
        """Initialize the criterion with the seed; see skorch."""
        with self._with_threads_and(self._seed()):
            super().initialize_criterion()
        return self

    def evaluation_step(self, batch: Any, training: bool = False) -> Any:
        """Predict a batch with `n_threads` threads."""
        with self._with_threads_and(None):
            return super().evaluation_step(batch, training=training)

    def _seed(self) -> int | None:
        if self.random_state is None:
            return None
        return check_integer("random_state", self.random_state, 0, 2**32 - 1)

    @contextlib.contextmanager
    def _with_threads_and(self, seed: int | None) -> Iterator[None]:
        """Use `n_threads` and seed the global generators; restore both."""
        with contextlib.ExitStack() as stack:
            if self.n_threads is not None:
                n_threads = check_integer("n_threads", self.n_threads, 1)
                stack.enter_context(torch_threads(n_threads))
            if seed is not None:
                stack.enter_context(seeded(seed))
            yield

    # For scikit-learn

    def _get_param_names(self) -> list[str]:
        # Without skorch's private state: it holds a set, whose order differs between
        # processes, and with it the text of all parameters.
        return [n for n in super()._get_param_names() if not n.startswith("_")]

    def __repr__(self) -> str:
        """Show the parameters that differ from the defaults."""
        defaults = {
            param.name: param.default
            for cls in reversed(type(self).__mro__)
            if "__init__" in vars(cls)
            for param in inspect.signature(cls).parameters.values()
        }
        shown = [
            f"{name}={described(value)}"
            for name, value in sorted(self.get_params(deep=False).items())
            if name not in defaults
            or type(value) is not type(defaults[name])
            or described(value) != described(defaults[name])
        ]
        return f"{type(self).__name__}({', '.join(shown)})"

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.input_tags.three_d_array = False, True
        tags.non_deterministic = self.random_state is None
        return tags
