"""Nets of braindecode that follow scikit-learn's conventions."""

from __future__ import annotations

import functools
import inspect
import reprlib
import warnings
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import torch
from braindecode import EEGClassifier, EEGRegressor
from braindecode.datasets import BaseConcatDataset
from braindecode.training import CroppedLoss
from numpy.typing import NDArray
from sklearn.exceptions import NotFittedError
from sklearn.metrics import check_scoring
from sklearn.utils import column_or_1d
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.multiclass import unique_labels
from skorch import NeuralNet
from skorch.callbacks.scoring import ScoringBase
from skorch.dataset import Dataset
from skorch.utils import data_from_dataset, is_dataset, to_device, to_numpy

from braindecode_sam._arguments import check_positive
from braindecode_sam.checks import are_probabilities, is_missing_a_column
from braindecode_sam.optim import SAM

Labels = NDArray[Any]


class _Conventions(NeuralNet):
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
    """Tell whether a net's optimizer is a SAM."""
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


class Regressor(_Conventions, EEGRegressor):
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

    :func:`braindecode_sam.make_regressor` builds one.

    Examples
    --------
    >>> import numpy as np
    >>> from braindecode_sam import SAM
    >>> from braindecode_sam.nets import Regressor
    >>> X = np.random.default_rng(0).normal(size=(8, 4, 200)).astype("float32")
    >>> net = Regressor(
    ...     "FastEEGNeX", optimizer=SAM, max_epochs=1, batch_size=4, verbose=0,
    ...     train_split=None)
    >>> net.fit(X, np.arange(8.0, dtype="float32")).predict(X).shape
    (8,)
    """

    has_flat_targets_ = False

    def fit(self, X: Any, y: Any = None, **fit_params: Any) -> Self:
        """Fit; see :meth:`braindecode.EEGRegressor.fit`. Returns the net."""
        y = np.asarray(y, dtype=np.float32) if isinstance(y, list) else y
        super().fit(X, y, **fit_params)
        self._note_targets(y)  # only now: braindecode's fit calls partial_fit
        return self

    def partial_fit(
        self, X: Any, y: Any = None, classes: Any = None, **fit_params: Any
    ) -> Self:
        """Go on; see :meth:`braindecode.EEGRegressor.partial_fit`."""
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

    def _note_targets(self, y: Any) -> None:
        self.has_flat_targets_ = y is not None and np.ndim(y) == 1


class Classifier(_Conventions, EEGClassifier):
    """An EEGClassifier that goes by scikit-learn's conventions.

    It takes labels of any kind that scikit-learn takes, and predicts them. As
    :class:`Regressor`, its ``fit`` returns the net, an initialized net keeps its
    weights in ``partial_fit`` and with ``warm_start=True``, and
    ``set_params(optimizer=torch.optim.AdamW)`` takes the options of SAM away.
    Scoring callbacks, ``valid_acc`` among them, compare labels with labels.

    :func:`braindecode_sam.make_classifier` builds one.

    Parameters
    ----------
    module : str, type or torch.nn.Module
        As :class:`braindecode.EEGClassifier` takes it. Its ``n_outputs`` is the number
        of classes, unless ``module__n_outputs`` is given.
    *args
        Further positional parameters of :class:`braindecode.EEGClassifier`.
    classes : list of labels or None, default=None
        All labels there are. They fix the columns of ``predict_proba`` in every fold of
        a cross-validation, also where the training data lack a class. None takes the
        labels of the data that the net is fitted to.
    class_weight : None, "balanced" or dict of label to float, default=None
        Weights of the classes in the loss, as scikit-learn defines them, passed to the
        criterion as its ``weight``. "balanced" computes them at every call of ``fit``
        and ``partial_fit`` from its y, held-out validation windows included; a class
        that y lacks gets the weight 1. A dict holds a weight for each class. The
        validation loss is weighted too.
    **kwargs
        Further parameters of :class:`braindecode.EEGClassifier`.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Labels, sorted: the order of the columns of ``predict_proba``.

    Notes
    -----
    A :class:`torch.utils.data.Dataset` carries its own targets, which must be whole
    numbers. Fit it with ``y=None``. Its targets are read once before training, window
    by window if need be; pass `classes` to do without, where `class_weight` is not
    "balanced". Nobody looks then whether they are whole numbers, and braindecode cuts
    off the rest.

    Scikit-learn's ``VotingClassifier``, ``StackingClassifier`` and
    ``cross_val_predict(method="predict_proba")`` number the labels before they pass
    them on. Leave `classes` at None there, and do not pass a dict as `class_weight`.

    Examples
    --------
    >>> import numpy as np
    >>> from braindecode_sam import SAM
    >>> from braindecode_sam.nets import Classifier
    >>> X = np.random.default_rng(0).normal(size=(8, 4, 200)).astype("float32")
    >>> net = Classifier(
    ...     "FastEEGNeX", optimizer=SAM, max_epochs=1, batch_size=4, verbose=0,
    ...     train_split=None, class_weight="balanced")
    >>> net = net.fit(X, ["rest", "left", "left", "rest"] * 2)
    >>> net.classes_.tolist(), net.predict_proba(X).shape, net.predict(X).dtype.kind
    (['left', 'rest'], (8, 2), 'U')
    """

    # Trailing underscores keep these out of what skorch takes for parameters.
    class_weights_: NDArray[np.float64] | None = None
    has_inferred_outputs_ = False

    def __init__(
        self, module: Any, *args: Any, class_weight: Any = None, **kwargs: Any
    ) -> None:
        super().__init__(module, *args, **kwargs)
        self.class_weight = class_weight

    @property
    def classes_(self) -> Labels:
        """Labels, sorted, an ndarray of shape (n_classes,)."""
        if "labels_" in vars(self):
            return self.labels_
        if self.classes is not None:
            return _sorted_classes(self.classes)
        raise NotFittedError(
            "classes_ is not known, as this net was not fitted; fit it, or pass"
            " classes=[...] with all labels"
        )

    def fit(self, X: Any, y: Any = None, **fit_params: Any) -> Self:
        """Fit to labels.

        Parameters
        ----------
        X : array-like, mne.Epochs or torch.utils.data.Dataset
            Windows.
        y : array-like of shape (n_windows,) or None, default=None
            Labels: text, whole numbers or booleans. None only for a dataset, which
            carries its own targets.
        **fit_params
            See :meth:`braindecode.EEGClassifier.fit`.

        Returns
        -------
        net : Classifier
            The net itself.

        Raises
        ------
        ValueError
            If `y` holds no labels, a single class or a label that is not in
            `classes`, or if `class_weight` does not fit the classes or the criterion.
        """
        is_new = not (self.warm_start and self._is_initialized())
        y = self._learn(X, y, None, is_new)
        if is_new and self.has_inferred_outputs_:
            self.module__n_outputs = len(self.labels_)
        return super().fit(X, y, **fit_params)

    def partial_fit(
        self, X: Any, y: Any = None, classes: Any = None, **fit_params: Any
    ) -> Self:
        """Go on training.

        Parameters
        ----------
        X : array-like, mne.Epochs or torch.utils.data.Dataset
            Windows.
        y : array-like of shape (n_windows,) or None, default=None
            Labels, as ``fit`` takes them.
        classes : list of labels or None, default=None
            All labels there are. Needed in the first call if its `y` lacks some and
            the parameter `classes` is None; later calls may repeat them.
        **fit_params
            See :meth:`braindecode.EEGClassifier.partial_fit`.

        Returns
        -------
        net : Classifier
            The net itself.

        Raises
        ------
        ValueError
            As ``fit``, and if `classes` are not those known already.
        """
        if "_routing_method" not in fit_params:  # else skorch's fit calls this
            y = self._learn(X, y, classes, False)
        return super().partial_fit(X, y, classes=classes, **fit_params)

    def predict(self, X: Any) -> Labels:
        """Predict the label with the largest output.

        Parameters
        ----------
        X : array-like, mne.Epochs or torch.utils.data.Dataset
            Windows.

        Returns
        -------
        labels : ndarray of shape (n_windows,)
            Some of ``classes_``.
        """
        outputs = super().predict_proba(X)
        wrong = ~np.isfinite(outputs).reshape(len(outputs), -1).all(axis=1)
        if wrong.any():
            warnings.warn(
                f"The outputs for {wrong.sum()} of {len(wrong)} windows are not finite,"
                " so their labels mean nothing; the training may have diverged.",
                stacklevel=2,
            )
        return self.classes_[outputs.argmax(axis=1)]

    def predict_proba(self, X: Any) -> NDArray[np.floating]:
        """Predict the probability of each class.

        Parameters
        ----------
        X : array-like, mne.Epochs or torch.utils.data.Dataset
            Windows.

        Returns
        -------
        probabilities : ndarray of shape (n_windows, n_classes)
            Columns in the order of ``classes_``. With ``cropped=True`` these are the
            softmax of the outputs' mean over time, as :class:`CroppedLoss` takes it.

        Raises
        ------
        ValueError
            If the criterion does not tell how outputs become probabilities, and they
            are none themselves; see `predict_nonlinearity`.
        """
        found = super().predict_proba(X)
        if self.predict_nonlinearity == "auto" and not are_probabilities(found, axis=1):
            raise ValueError(
                "The outputs of the module are not probabilities, got"
                f" {reprlib.repr(found[0].tolist())} for window 0, and"
                f" criterion={_name(self.criterion)} does not tell how they become"
                " some; expected a cross-entropy or predict_nonlinearity=a function of"
                " a batch of outputs"
            )
        return found

    def get_loss(self, y_pred: Any, y_true: Any, *args: Any, **kwargs: Any) -> Any:
        """Compare outputs with the places of the targets among the classes."""
        if "labels_" in vars(self):
            _check_outputs(y_pred, self.labels_)
            if isinstance(y_true, torch.Tensor):
                y_true = _places(y_true, self.labels_)
        return super().get_loss(y_pred, y_true, *args, **kwargs)

    def get_dataset(self, X: Any, y: Any = None) -> Any:
        """Make a dataset of windows and of labels as the whole numbers of batches."""
        if y is not None and not is_dataset(X):
            y, found = _as_labels("y", y)
            y = _encode(y, vars(self).get("labels_", found))
        return super().get_dataset(X, y)

    def get_split_datasets(self, X: Any, y: Any = None, **fit_params: Any) -> Any:
        """Split; see :meth:`skorch.NeuralNet.get_split_datasets`."""
        train, valid = super().get_split_datasets(X, y, **fit_params)
        if isinstance(valid, Dataset) and _has_text(valid.y):
            valid = self.get_dataset(valid.X, valid.y)  # of skorch's predefined_split
        return train, valid

    def get_params_for(self, prefix: str) -> dict[str, Any]:
        """Collect parameters, with the weights of the classes for the criterion."""
        params = super().get_params_for(prefix)
        if prefix == "criterion" and self.class_weights_ is not None:
            params["weight"] = self._criterion_weight()
        return params

    def check_data(self, X: Any, y: Any) -> None:
        """Do nothing: the labels were looked at before the module was built."""

    def on_train_begin(
        self, net: Any, X: Any = None, y: Any = None, **kwargs: Any
    ) -> None:
        """Let the scoring callbacks compare labels."""
        super().on_train_begin(net, X, y, **kwargs)
        for _, callback in self.callbacks_:
            is_scoring = isinstance(callback, ScoringBase)
            if is_scoring and not isinstance(callback.scoring_, _LabelScoring):
                callback.scoring_ = _LabelScoring(callback.scoring_)

    def _get_predict_nonlinearity(self) -> Any:
        is_known = self.predict_nonlinearity == "auto" and self._criteria == [
            "criterion"
        ]
        if not (is_known and _is_cross_entropy(self.criterion_)):
            return super()._get_predict_nonlinearity()
        averages = self.cropped and self.aggregate_predictions
        return functools.partial(_softmax_of_classes, averages=averages)

    def _set_signal_args(self, X: Any, y: Any, classes: Any) -> None:
        if self._takes_outputs() and "n_outputs" not in self.get_params_for("module"):
            self.set_params(module__n_outputs=len(self.labels_))
            self.has_inferred_outputs_ = True
        if is_dataset(X):
            # Of the windows alone: braindecode would compare the classes with metadata
            # that the dataset may transform.
            X = torch.utils.data.Subset(X, [0])
        super()._set_signal_args(X, y, self.labels_.tolist())

    def _takes_outputs(self) -> bool:
        if isinstance(self.module, torch.nn.Module):  # made already
            return False
        is_named = isinstance(self.module, str)  # one of braindecode's, which all do
        return is_named or "n_outputs" in inspect.signature(self.module).parameters

    def _learn(self, X: Any, y: Any, classes: Any, is_new: bool) -> Labels | None:
        """Find out the labels and their weights; give y as an array."""
        known = self._known_labels(classes, is_new)
        is_carried = y is None and is_dataset(X)
        if is_carried and known is not None and self.class_weight != "balanced":
            labels, targets = known, None  # there is nothing to read
        else:
            targets, found = _as_labels("y", _read_targets(X) if is_carried else y)
            labels = found if known is None else known
            _check_several("y", labels)
            _check_known(found, labels)
            if is_dataset(X) and not is_carried:
                _check_same_targets(X, targets, labels)
        if is_dataset(X):
            _check_whole_numbers(labels)
        self._weigh(labels, targets, is_new)
        self.labels_ = labels
        return None if is_carried else targets

    def _known_labels(self, classes: Any, is_new: bool) -> Labels | None:
        """Labels that are fixed already, by the parameters or by training before."""
        known = None if is_new else vars(self).get("labels_")
        for given in (self.classes, classes):
            if given is None:
                continue
            labels = _sorted_classes(given)
            if known is not None and known.tolist() != labels.tolist():
                raise ValueError(
                    f"classes must be those known already, {known.tolist()}, got"
                    f" {labels.tolist()}"
                )
            known = labels
        return known

    def _weigh(self, labels: Labels, y: Labels | None, is_new: bool) -> None:
        """Compute the weights of classes, and give them to a criterion that stays."""
        had_weights, weights = self.class_weights_ is not None, None
        if self.class_weight is not None:
            _check_takes_weight(self.criterion, super().get_params_for("criterion"))
            weights = _class_weights(self.class_weight, labels, y)
        self.class_weights_ = weights
        is_kept = self._is_initialized() and not is_new
        if is_kept and (had_weights or weights is not None):
            _check_has_weight(self.criterion_)
            self.criterion_.weight = self._criterion_weight()

    def _criterion_weight(self) -> torch.Tensor | None:
        if self.class_weights_ is None:
            return None
        weight = torch.tensor(self.class_weights_, dtype=torch.float32)
        return to_device(weight, self.device)


class _LabelScoring:
    """A callback's scoring, with the labels of what it takes from batches."""

    def __init__(self, scoring: Any) -> None:
        self.scoring = scoring

    def __call__(self, net: Any, X: Any, y: Any) -> Any:
        if isinstance(y, (np.ndarray, torch.Tensor)):
            targets = torch.as_tensor(y)
            y = net.labels_[_places(targets, net.labels_).cpu().numpy()]
        return check_scoring(net, self.scoring)(net, X, y)


def _as_labels(name: str, y: Any) -> tuple[Labels, Labels]:
    """Give labels as an array of shape (n_windows,), and those that there are."""
    y = to_numpy(y) if isinstance(y, torch.Tensor) else y
    try:
        with np.errstate(invalid="ignore"):  # what NaN raises is not its name
            found = unique_labels(y)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{name} must hold labels, all text or all whole numbers, got"
            f" {reprlib.repr(y)}"
        ) from error
    return column_or_1d(y, warn=True), found


def _has_text(y: Any) -> bool:
    is_array = y is not None and not isinstance(y, torch.Tensor)
    return is_array and np.asarray(y).dtype.kind in "OSTU"


def _sorted_classes(classes: Any) -> Labels:
    _, labels = _as_labels("classes", classes)
    _check_several("classes", labels)
    return labels


def _check_several(name: str, labels: Labels) -> None:
    if len(labels) < 2:
        raise ValueError(
            f"{name} must hold two classes or more, got {labels.tolist()}; where some"
            " data lack a class, pass classes=[...] with all labels"
        )


def _check_whole_numbers(labels: Labels) -> None:
    if labels.dtype.kind not in "biuf":
        raise ValueError(
            "The targets of a Dataset must be whole numbers, got the classes"
            f" {labels.tolist()}; map them in the Dataset, say by its target_transform,"
            " or pass arrays X and y"
        )


def _check_known(found: Labels, labels: Labels) -> None:
    known = set(labels.tolist())
    unknown = [label for label in found.tolist() if label not in known]
    if unknown:
        hint = ""
        if set(found.tolist()) <= set(range(len(labels))):
            hint = (
                "; leave classes=None where scikit-learn numbers the labels, as in"
                " VotingClassifier and in cross_val_predict of probabilities"
            )
        raise ValueError(
            f"y has the label {unknown[0]!r}, which is not among the classes"
            f" {labels.tolist()}{hint}"
        )


def _encode(y: Labels, labels: Labels) -> NDArray[np.int64]:
    """Turn labels into the numbers that stand for them in batches."""
    found, rows = np.unique(y, return_inverse=True)
    _check_known(found, labels)
    places = {label: place for place, label in enumerate(labels.tolist())}
    codes = _codes(labels)
    return np.array([codes[places[label]] for label in found.tolist()])[rows]


def _codes(labels: Labels) -> NDArray[np.int64]:
    """Numbers that stand for labels in batches: themselves, or places of text.

    Datasets with targets of their own hold labels, not places.
    """
    if labels.dtype.kind in "biuf":
        return labels.astype(np.int64)
    return np.arange(len(labels))


def _places(targets: torch.Tensor, labels: Labels) -> torch.Tensor:
    """Find the places among the classes of targets as batches hold them."""
    codes = torch.as_tensor(_codes(labels), device=targets.device)
    targets = targets.to(codes.dtype).contiguous()
    places = torch.searchsorted(codes, targets).clamp(max=len(codes) - 1)
    unknown = targets[codes[places] != targets]
    if len(unknown):
        raise ValueError(
            f"A batch has the target {unknown[0].item()}, which is not among the"
            f" classes {labels.tolist()}"
        )
    return places


def _read_targets(dataset: Any) -> NDArray[Any]:
    """Read the targets of a dataset, without its windows where that can be."""
    if isinstance(dataset, torch.utils.data.Subset):
        return _read_targets(dataset.dataset)[np.asarray(dataset.indices)]
    if isinstance(dataset, BaseConcatDataset) and dataset.target_transform is None:
        return np.concatenate([_read_targets(part) for part in dataset.datasets])
    if getattr(dataset, "targets_from", None) == "metadata":  # braindecode's windows
        return np.asarray(dataset.y)
    try:
        return to_numpy(data_from_dataset(dataset)[1])
    except AttributeError:  # not of a kind that skorch knows
        return np.array([np.asarray(dataset[i][1]) for i in range(len(dataset))])


def _check_same_targets(dataset: Any, y: Labels, labels: Labels) -> None:
    """Refuse labels that are not those which a dataset trains with."""
    targets = _read_targets(dataset)
    is_unknown = targets.dtype == object and (targets == None).all()  # noqa: E711
    if not is_unknown and not np.array_equal(targets, _encode(y, labels)):
        raise ValueError(
            "y differs from the targets that the Dataset carries, which are those that"
            " are trained with; pass y=None"
        )


def _check_outputs(y_pred: Any, labels: Labels) -> None:
    is_known = isinstance(y_pred, torch.Tensor) and y_pred.ndim > 1
    if is_known and y_pred.shape[1] != len(labels):
        n_outputs, n_classes = y_pred.shape[1], len(labels)
        raise ValueError(
            f"The module has {n_outputs} outputs, but there are {n_classes} classes,"
            f" {labels.tolist()}; pass module__n_outputs={n_classes}, or classes=[...]"
            f" with {n_outputs} labels where y lacks some"
        )


def _check_takes_weight(criterion: Any, params: Mapping[str, Any]) -> None:
    if "weight" in params:
        raise ValueError(
            "class_weight sets the criterion's weight, got criterion__weight="
            f"{params['weight']!r} beside it; expected one of both"
        )
    takes = False
    if not isinstance(criterion, torch.nn.Module):  # one that is made already
        parameters = inspect.signature(criterion).parameters.values()
        kinds = {p.kind for p in parameters}
        takes = inspect.Parameter.VAR_KEYWORD in kinds
        takes = takes or "weight" in {p.name for p in parameters}
    if not takes:
        raise ValueError(
            "class_weight needs a criterion class that takes a weight, such as"
            f" torch.nn.CrossEntropyLoss, got criterion={_name(criterion)}"
        )


def _check_has_weight(criterion: Any) -> None:
    if not hasattr(criterion, "weight"):
        raise ValueError(
            "class_weight changes in a net that keeps its criterion, expected one with"
            f" the attribute weight, as torch's losses have it, got {criterion!r}"
        )


def _class_weights(
    class_weight: Any, labels: Labels, y: Labels | None
) -> NDArray[np.float64]:
    """Compute the weight of each class."""
    if isinstance(class_weight, Mapping):
        return _weights_of_dict(class_weight, labels)
    if not (isinstance(class_weight, str) and class_weight == "balanced"):
        raise ValueError(
            "class_weight must be None, 'balanced' or a dict of labels and their"
            f" weights, got {class_weight!r}"
        )
    weights = np.ones(len(labels))
    places = np.searchsorted(_codes(labels), _encode(np.asarray(y), labels))
    present = np.unique(places)
    weights[present] = compute_class_weight("balanced", classes=present, y=places)
    return weights


def _weights_of_dict(
    class_weight: Mapping[Any, Any], labels: Labels
) -> NDArray[np.float64]:
    known = labels.tolist()
    unknown = [label for label in class_weight if label not in known]
    missing = [label for label in known if label not in class_weight]
    if unknown or missing:
        wrong = (
            f"{missing[0]!r} has no weight"
            if missing
            else f"{unknown[0]!r} is not a class"
        )
        raise ValueError(
            f"class_weight must hold a weight for each of the classes {known} and for"
            f" nothing else, got {dict(class_weight)!r}, where {wrong}"
        )
    for label in known:
        # With 0, a batch of that class alone would have the loss 0 / 0.
        check_positive(f"class_weight[{label!r}]", class_weight[label])
    return np.array([class_weight[label] for label in known], dtype=np.float64)


def _is_cross_entropy(criterion: Any) -> bool:
    """Tell whether a loss takes logits, or their logarithms after a softmax."""
    criterion = getattr(criterion, "_orig_mod", criterion)  # torch.compile's
    if isinstance(criterion, CroppedLoss):
        criterion = criterion.loss_function
    functions = (torch.nn.functional.cross_entropy, torch.nn.functional.nll_loss)
    losses = (torch.nn.CrossEntropyLoss, torch.nn.NLLLoss)
    return isinstance(criterion, losses) or criterion in functions


def _softmax_of_classes(outputs: torch.Tensor, *, averages: bool) -> torch.Tensor:
    """Turn outputs of shape (n_windows, n_classes, ...) into probabilities.

    Log-probabilities become probabilities, too.
    """
    if averages and outputs.ndim == 3:
        outputs = outputs.mean(dim=-1)
    return outputs.softmax(dim=1)


def _name(criterion: Any) -> str:
    return getattr(criterion, "__name__", repr(criterion))
