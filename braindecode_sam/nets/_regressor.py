"""A regressor for EEG that follows scikit-learn's conventions."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from braindecode import EEGRegressor

from braindecode_sam._checks import is_missing_a_column
from braindecode_sam.nets._conventions import Conventions


class Regressor(Conventions, EEGRegressor):
    """An EEGRegressor that follows scikit-learn's conventions.

    It differs from :class:`braindecode.EEGRegressor` as follows:

    - ``fit`` returns the net.
    - After fitting to targets of shape (n_windows,), predictions have that shape, so
      that ensembles such as ``VotingRegressor`` can average them.
    - Targets of shape (batch,), from a windows dataset or ``partial_fit``, are compared
      with the output of the same window. They are not broadcast over the batch.
    - An initialized net keeps its weights in ``partial_fit`` and, with
      ``warm_start=True``, in ``fit``.
    - ``set_params(optimizer=torch.optim.AdamW)`` removes the options of SAM and the
      callback named ``sam``.

    :func:`braindecode_sam.make_regressor` builds one from a configuration.

    Parameters
    ----------
    module : str, type or torch.nn.Module
        Model, or the name of a registered one such as ``"FastEEGNeX"``.
    *args, **kwargs
        Further parameters of :class:`braindecode.EEGRegressor`, such as `optimizer`,
        `lr`, `max_epochs`, `batch_size`, `train_split`, `callbacks` and `device`.

    See Also
    --------
    Classifier : The same for labels.
    braindecode_sam.make_regressor : Build a net from a configuration.

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

    def fit(self, X: Any, y: Any = None, groups: Any = None, **fit_params: Any) -> Self:
        """Fit the net and return it; see :meth:`braindecode.EEGRegressor.fit`.

        Parameters
        ----------
        X : array-like, mne.Epochs or torch.utils.data.Dataset
            Windows.
        y : array-like of shape (n_windows,) or (n_windows, n_outputs), or None
            Targets. None only for a dataset, which carries its targets.
        groups : array-like of shape (n_windows,) or None, default=None
            Subject of each window, for ``train_split=SubjectSplit(...)``.
        **fit_params
            See :meth:`braindecode.EEGRegressor.fit`.

        Returns
        -------
        net : Regressor
            The net itself.
        """
        y = _as_targets(y)
        super().fit(X, y, groups=groups, **fit_params)
        self._note_targets(y)  # last, since braindecode's fit calls partial_fit
        return self

    def partial_fit(
        self,
        X: Any,
        y: Any = None,
        classes: Any = None,
        groups: Any = None,
        **fit_params: Any,
    ) -> Self:
        """Continue training, with parameters as in :meth:`fit`."""
        y = _as_targets(y)
        super().partial_fit(X, y, classes=classes, groups=groups, **fit_params)
        self._note_targets(y)
        return self

    def predict(self, X: Any) -> Any:
        """Predict, in the shape of the targets to which the net was fitted."""
        predicted = super().predict(X)
        is_column = predicted.shape[1:] == (1,)
        return predicted[:, 0] if self.has_flat_targets_ and is_column else predicted

    def get_loss(self, y_pred: Any, y_true: Any, *args: Any, **kwargs: Any) -> Any:
        """Compute the loss, with targets in the shape of the predictions."""
        if is_missing_a_column(y_pred, y_true):
            y_true = y_true[:, None]
        return super().get_loss(y_pred, y_true, *args, **kwargs)

    def _note_targets(self, y: Any) -> None:
        self.has_flat_targets_ = y is not None and np.ndim(y) == 1


def _as_targets(y: Any) -> Any:
    """Convert lists, tuples, tables and arrays of objects to numbers."""
    is_array = isinstance(y, np.ndarray) and y.dtype.kind == "O"
    if is_array or isinstance(y, (list, tuple)) or hasattr(y, "to_numpy"):
        return np.array(y, dtype=np.float32)  # a table's own values are read-only
    return y
