"""What the regressor and the classifier share."""

from __future__ import annotations

import inspect
from typing import Any, Self

from skorch import NeuralNet

from braindecode_sam.optim import SAM


class Conventions(NeuralNet):
    """What regressors and classifiers share; comes before braindecode's classes."""

    def fit(self, X: Any, y: Any = None, **fit_params: Any) -> Self:
        self._keep_weights(self.warm_start)
        super().fit(X, y, **fit_params)
        return self

    def partial_fit(
        self, X: Any, y: Any = None, classes: Any = None, **fit_params: Any
    ) -> Self:
        self._keep_weights(True)
        super().partial_fit(X, y, classes=classes, **fit_params)
        return self

    def set_params(self, **params: Any) -> Self:
        """Set parameters; another optimizer does not get the options of SAM.

        Raises
        ------
        ValueError
            If the optimizer of an initialized net is to be another one.
        """
        before, after = self.optimizer, params.get("optimizer", self.optimizer)
        if after is not before:
            if self._is_initialized():
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
        if not is_sam(after) and "sam" in names and not self._has_sam_off():
            taken["callbacks__sam"] = self.callbacks__sam = None
        elif is_sam(after) and "callbacks__sam" in taken:
            del taken["callbacks__sam"], self.callbacks__sam

    def _has_sam_off(self) -> bool:
        return vars(self).get("callbacks__sam", "") is None

    def _is_initialized(self) -> bool:
        return getattr(self, "initialized_", False)

    def _keep_weights(self, is_wanted: bool) -> None:
        # braindecode would build the module again, for what it knows of the data.
        if is_wanted and self._is_initialized():
            self.signal_args_set_ = True


def is_sam(optimizer: Any) -> bool:
    """Return whether a net's optimizer is a SAM."""
    return isinstance(optimizer, type) and issubclass(optimizer, SAM)


def _own_options(optimizer: Any) -> set[str]:
    """Names of the options that a SAM has beside those of its base."""
    if not is_sam(optimizer):
        return set()
    arguments = set(inspect.signature(optimizer).parameters)
    return {*optimizer._checks(), *arguments, "base_optimizer"}


def _is_spelling(name: str, option: str) -> bool:
    spelled = f"optimizer__{option}"
    return name == spelled or (
        option == "base_optimizer" and name.startswith(spelled + "__")
    )
