"""A regressor for EEG that follows scikit-learn's conventions."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from braindecode import EEGRegressor

from braindecode_sam.checks import is_missing_a_column
from braindecode_sam.nets._conventions import Conventions


class Regressor(Conventions, EEGRegressor):
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
