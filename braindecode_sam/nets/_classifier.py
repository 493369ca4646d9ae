"""A classifier for EEG that follows scikit-learn's conventions."""

from __future__ import annotations

import copy
import functools
import reprlib
import warnings
from typing import Any

import numpy as np
import torch
from braindecode import EEGClassifier
from braindecode.datautil import infer_signal_properties
from braindecode.training import CroppedLoss
from numpy.typing import NDArray
from sklearn.exceptions import NotFittedError
from sklearn.metrics import check_scoring
from skorch.callbacks.scoring import ScoringBase
from skorch.dataset import Dataset
from skorch.utils import is_dataset

from braindecode_sam._checks import are_probabilities
from braindecode_sam.nets._conventions import Conventions
from braindecode_sam.nets._labels import (
    Labels,
    as_labels,
    check_known,
    check_several_classes,
    class_indices,
    class_weights,
    encode,
    is_text,
    read_targets,
    sorted_classes,
)


class Classifier(Conventions, EEGClassifier):
    """An EEGClassifier that follows scikit-learn's conventions.

    It accepts all labels that scikit-learn accepts, and predicts them. Like
    :class:`Regressor`, it has a `random_state`, its ``fit`` returns the net and takes
    `groups`, clones can be fitted to windows of another shape, and an initialized net
    keeps its weights in ``partial_fit`` and with ``warm_start=True``. Scoring callbacks
    such as ``valid_acc`` receive labels.

    :func:`braindecode_sam.make_classifier` builds one from a configuration.

    Parameters
    ----------
    module : str, type or torch.nn.Module
        Model, or the name of a registered one such as ``"FastEEGNeX"``. Its
        ``n_outputs`` is the number of classes, unless ``module__n_outputs`` is given.
    *args
        Further positional parameters of :class:`braindecode.EEGClassifier`.
    classes : list of labels or None, default=None
        All labels. They fix the columns of ``predict_proba`` in every fold of a
        cross-validation, even if the training data lack a class. None takes the labels
        of the training data.
    class_weight : None, "balanced" or dict of label to float, default=None
        Weights of the classes in the loss, as in scikit-learn, passed to the criterion
        as its ``weight``. "balanced" computes them from y in each call of ``fit`` and
        ``partial_fit``, including held-out validation windows. A class that y or the
        dict lacks gets the weight 1. The validation loss is weighted too.
    random_state, n_threads : int or None, default=None
        As in :class:`Regressor`.
    **kwargs
        Further parameters of :class:`braindecode.EEGClassifier`.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Sorted labels, in the order of the columns of ``predict_proba``.

    See Also
    --------
    Regressor : The same for regression.
    braindecode_sam.make_classifier : Build a net from a configuration.

    Notes
    -----
    A :class:`torch.utils.data.Dataset` carries its targets, which must be integers. Fit
    it with ``y=None``. The net reads the targets once before training, if necessary
    window by window. To avoid this, pass `classes` and a `class_weight` other than
    "balanced". The targets are then checked by the criterion only, and braindecode
    truncates fractions.

    scikit-learn's ``VotingClassifier``, ``StackingClassifier`` and
    ``cross_val_predict(method="predict_proba")`` encode labels as integers before they
    pass them on. Keep ``classes=None`` there, and do not pass a dict as `class_weight`.

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

    class_weights_: NDArray[np.float64] | None = None

    def __init__(
        self, module: Any, *args: Any, class_weight: Any = None, **kwargs: Any
    ) -> None:
        super().__init__(module, *args, **kwargs)
        self.class_weight = class_weight

    @property
    def classes_(self) -> Labels:
        """Sorted labels, in the order of the columns of ``predict_proba``."""
        if "labels_" in vars(self):
            return self.labels_
        if self.classes is not None:
            return sorted_classes(self.classes)
        raise NotFittedError(
            "classes_ is unknown, since this net is not fitted; call fit, or pass"
            " classes=[...] with all labels"
        )

    def predict(self, X: Any) -> Labels:
        """Predict the label with the largest output.

        Parameters
        ----------
        X : array-like, mne.Epochs or torch.utils.data.Dataset
            Windows.

        Returns
        -------
        labels : ndarray of shape (n_windows,)
            Labels among ``classes_``.
        """
        outputs = super().predict_proba(X)
        wrong = ~np.isfinite(outputs).reshape(len(outputs), -1).all(axis=1)
        if wrong.any():
            warnings.warn(
                f"The outputs for {wrong.sum()} of {len(wrong)} windows are not finite,"
                " so their labels are meaningless; the training may have diverged.",
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
            Columns in the order of ``classes_``. With ``cropped=True``, the softmax of
            the outputs' mean over time, as in braindecode's ``CroppedLoss``.

        Raises
        ------
        ValueError
            If the criterion does not define how outputs become probabilities, and the
            outputs are not probabilities; see `predict_nonlinearity`.
        """
        found = super().predict_proba(X)
        if self.predict_nonlinearity == "auto" and not are_probabilities(found, axis=1):
            criterion = getattr(self.criterion, "__name__", repr(self.criterion))
            raise ValueError(
                "The outputs of the module are not probabilities, got"
                f" {reprlib.repr(found[0].tolist())} for window 0, and"
                f" criterion={criterion} does not define how"
                " they become probabilities; expected a cross-entropy, or"
                " predict_nonlinearity=a function of a batch of outputs"
            )
        return found

    def trim_for_prediction(self) -> None:
        """Remove what only training needs, and predict as before."""
        if self.criterion is not None:  # it tells how outputs become probabilities
            nonlinearity = self._get_predict_nonlinearity()
            super().trim_for_prediction()
            self.predict_nonlinearity = nonlinearity

    def get_loss(self, y_pred: Any, y_true: Any, *args: Any, **kwargs: Any) -> Any:
        """Compute the loss, with targets as indices of the classes."""
        if "labels_" in vars(self):
            n_classes = len(self.labels_)
            is_known = isinstance(y_pred, torch.Tensor) and y_pred.ndim > 1
            if is_known and (n_outputs := y_pred.shape[1]) != n_classes:
                raise ValueError(
                    f"The module must have one output for each of {n_classes} classes,"
                    f" {self.labels_.tolist()}, got {n_outputs} outputs; pass"
                    f" module__n_outputs={n_classes}, or classes=[...] with"
                    f" {n_outputs} labels if y lacks some"
                )
            y_true = class_indices(y_true, self.labels_)
        return super().get_loss(y_pred, y_true, *args, **kwargs)

    def get_dataset(self, X: Any, y: Any = None) -> Any:
        """Make a dataset of windows and integer targets."""
        if y is not None and not is_dataset(X):
            y = self._encoded(y)
        return super().get_dataset(X, y)

    def get_split_datasets(self, X: Any, y: Any = None, **fit_params: Any) -> Any:
        """Split the data; see :meth:`skorch.NeuralNet.get_split_datasets`."""
        train, valid = super().get_split_datasets(X, y, **fit_params)
        if valid is None or _whole(valid) is _whole(train):
            return train, valid
        # From skorch's predefined_split, with targets that are not encoded.
        if isinstance(valid, Dataset) and valid.y is not None:
            valid = copy.copy(valid)
            valid.y = self._encoded(valid.y)
        elif "labels_" in vars(self):
            _check_dataset(valid, self.labels_, None)
        return train, valid

    def _encoded(self, y: Any) -> NDArray[np.int64]:
        y, found = as_labels("y", y)
        return encode(y, vars(self).get("labels_", found))

    def get_params_for(self, prefix: str) -> dict[str, Any]:
        """Return the parameters, including the criterion's weights of the classes."""
        params = super().get_params_for(prefix)
        if prefix == "criterion" and self.class_weights_ is not None:
            params["weight"] = torch.tensor(
                self.class_weights_, dtype=torch.float32, device=self.device
            )
        return params

    def check_data(self, X: Any, y: Any) -> None:
        """Do nothing, since labels are checked before the module is built."""

    def on_train_begin(
        self, net: Any, X: Any = None, y: Any = None, **kwargs: Any
    ) -> None:
        """Wrap the scoring callbacks so that they receive labels instead of indices."""
        super().on_train_begin(net, X, y, **kwargs)
        for _, callback in self.callbacks_:
            is_scoring = isinstance(callback, ScoringBase)
            if is_scoring and not isinstance(callback.scoring_, _LabelScoring):
                callback.scoring_ = _LabelScoring(callback.scoring_)

    def _get_predict_nonlinearity(self) -> Any:
        is_usual = self.predict_nonlinearity == "auto" and len(self._criteria) == 1
        if not (is_usual and _is_cross_entropy(self.criterion_)):
            return super()._get_predict_nonlinearity()
        averages = self.cropped and self.aggregate_predictions
        return functools.partial(_softmax_of_classes, averages=averages)

    def _signal_properties(self, X: Any, y: Any) -> dict[str, Any]:
        if is_dataset(X):
            # Without metadata: braindecode would compare the classes with targets that
            # the dataset may transform.
            X = torch.utils.data.Subset(X, [0])
        found: dict[str, Any] = infer_signal_properties(
            X, y, mode=self.mode, classes=self.labels_.tolist()
        )
        return found | {"n_outputs": len(self.labels_)}

    def _targets_of(self, X: Any, y: Any, classes: Any, is_new: bool) -> Any:
        """Determine the labels and their weights; return y as an array."""
        labels: Labels | None = None if is_new else vars(self).get("labels_")
        for given in (self.classes, classes):
            if given is None:
                continue
            chosen = sorted_classes(given)
            if labels is not None and chosen.tolist() != labels.tolist():
                raise ValueError(
                    f"classes must equal the known ones, {labels.tolist()}, got"
                    f" {chosen.tolist()}"
                )
            labels = chosen
        is_carried = y is None and is_dataset(X)
        targets = None
        if not is_carried or labels is None or self.class_weight == "balanced":
            targets, found = as_labels("y", read_targets(X) if is_carried else y)
            labels = found if labels is None else labels
            check_several_classes("y", labels)
            check_known(found, labels)
        if is_dataset(X):
            _check_dataset(X, labels, None if is_carried else targets)
        self._set_class_weights(labels, targets, is_new)
        self.labels_ = labels
        return None if is_carried else targets

    def _set_class_weights(
        self, labels: Labels, y: Labels | None, is_new: bool
    ) -> None:
        """Compute the weights of classes, and set them in an existing criterion."""
        had_weights, self.class_weights_ = self.class_weights_ is not None, None
        if self.class_weight is not None:
            given = self.get_params_for("criterion")
            if "weight" in given:
                raise ValueError(
                    "class_weight and criterion__weight cannot be combined, got"
                    f" criterion__weight={given['weight']!r}; pass one of them"
                )
            if isinstance(self.criterion, torch.nn.Module):  # skorch builds another
                raise ValueError(
                    "class_weight needs a criterion class that takes a weight, such as"
                    f" torch.nn.CrossEntropyLoss, got criterion={self.criterion!r}"
                )
            self.class_weights_ = class_weights(self.class_weight, labels, y)
        if not is_new and (had_weights or self.class_weights_ is not None):
            if not hasattr(self.criterion_, "weight"):
                raise ValueError(
                    "class_weight can change in an initialized net only if its"
                    " criterion has the attribute weight, as torch's losses do, got"
                    f" {self.criterion_!r}"
                )
            self.criterion_.weight = self.get_params_for("criterion").get("weight")


class _LabelScoring:
    """Scoring of a callback, with indices in batches converted to labels."""

    def __init__(self, scoring: Any) -> None:
        self.scoring = scoring

    def __call__(self, net: Any, X: Any, y: Any) -> Any:
        if isinstance(y, (np.ndarray, torch.Tensor)):
            indices = class_indices(torch.as_tensor(y), net.labels_)
            y = net.labels_[indices.numpy(force=True)]
        return check_scoring(net, self.scoring)(net, X, y)


def _whole(dataset: Any) -> Any:
    """Return the dataset of which this is a subset, or itself."""
    while isinstance(dataset, torch.utils.data.Subset):
        dataset = dataset.dataset
    return dataset


def _check_dataset(X: Any, labels: Labels, y: Labels | None) -> None:
    """Check labels beside a dataset, which trains on its own targets."""
    if is_text(labels):
        raise ValueError(
            "The targets of a Dataset must be integers, got the classes"
            f" {labels.tolist()}; convert them in the Dataset, for example with its"
            " target_transform, or pass arrays X and y"
        )
    if y is None:
        return
    targets = read_targets(X)
    is_unknown = targets.dtype == object and (targets == None).all()  # noqa: E711
    if not is_unknown and not np.array_equal(targets, encode(y, labels)):
        wrong = int(np.argmax(targets != encode(y, labels)))
        raise ValueError(
            "y must equal the targets of the Dataset, which are used for training, got"
            f" {y[wrong]!r} and {targets[wrong]!r} for window {wrong}; pass y=None"
        )


def _is_cross_entropy(criterion: Any) -> bool:
    """Return whether a loss takes logits or log-probabilities."""
    criterion = getattr(criterion, "_orig_mod", criterion)  # torch.compile's
    if isinstance(criterion, CroppedLoss):
        criterion = criterion.loss_function
    functions = (torch.nn.functional.cross_entropy, torch.nn.functional.nll_loss)
    losses = (torch.nn.CrossEntropyLoss, torch.nn.NLLLoss)
    return isinstance(criterion, losses) or criterion in functions


def _softmax_of_classes(outputs: torch.Tensor, *, averages: bool) -> torch.Tensor:
    """Convert outputs of shape (n_windows, n_classes, ...) to probabilities.

    The outputs may be logits or log-probabilities.
    """
    if averages and outputs.ndim == 3:
        outputs = outputs.mean(dim=-1)
    return outputs.softmax(dim=1)
