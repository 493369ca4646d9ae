"""A regressor for EEG that follows scikit-learn's conventions."""

from __future__ import annotations

from typing import Any

import numpy as np
from braindecode import EEGRegressor
from skorch.utils import is_dataset

from braindecode_sam._checks import as_numbers
from braindecode_sam.nets._conventions import Conventions


class Regressor(Conventions, EEGRegressor):
    """An EEGRegressor that follows scikit-learn's conventions.

    It differs from :class:`braindecode.EEGRegressor` as follows:

    - It has a `random_state`.
    - ``fit`` returns the net, and takes `groups` for ``train_split=SubjectSplit(...)``.
    - After fitting to targets of shape (n_windows,), predictions have that shape, so
      that ensembles such as ``VotingRegressor`` can average them.
    - Targets of shape (batch,), from a windows dataset or ``partial_fit``, are compared
      with the output of the same window. They are not broadcast over the batch.
    - An initialized net keeps its weights in ``partial_fit`` and, with
      ``warm_start=True``, in ``fit``. Otherwise ``fit`` takes the shape of the windows
      anew, and so does the ``fit`` of a clone.

    :func:`braindecode_sam.make_regressor` builds one from a configuration.

    Parameters
    ----------
    module : str, type or torch.nn.Module
        Model, or the name of a registered one such as ``"FastEEGNeX"``. Those of
        `n_chans`, `n_times`, `n_outputs`, `sfreq` and `chs_info` that it takes, and
        that are not given as ``module__n_chans`` and so on, are inferred in ``fit``.
    *args
        Further positional parameters of :class:`braindecode.EEGRegressor`.
    random_state : int or None, default=None
        Seed of weight initialization, shuffling, augmentation and dropout, at most
        2**32 - 1. Each ``fit`` of the net and of its clones draws the same numbers, as
        does the first ``partial_fit``. Afterwards, also if training fails, the global
        generators of torch, NumPy and Python are in their states of before. None draws
        from the global generators.
    n_threads : int or None, default=None
        Number of threads that torch uses while the net is built, trained and predicts.
        Rounding errors of sums depend on it. With 1, ``cross_validate`` returns the
        same scores in one process, in joblib's workers and on a cluster.
        None leaves the number unchanged.
    **kwargs
        Further parameters of :class:`braindecode.EEGRegressor`, such as `optimizer`,
        `lr`, `max_epochs`, `batch_size`, `train_split`, `callbacks` and `device`.

    Raises
    ------
    TypeError, ValueError
        When the net is initialized, if `random_state` or `n_threads` is out of range.

    See Also
    --------
    Classifier : The same for labels.
    braindecode_sam.make_regressor : Build a net from a configuration.

    Notes
    -----
    A net that continues its training, in a later ``partial_fit`` or with
    ``warm_start=True``, does not seed. With joblib's threading backend, nets that train
    at the same time share the global generators, so that results are not reproducible.

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

    has_flat_targets_ = True  # also where only weights are loaded

    def _targets_of(self, X: Any, y: Any, classes: Any, is_new: bool) -> Any:
        is_array = isinstance(y, np.ndarray) and y.dtype.kind not in "biuf"
        if is_array or isinstance(y, (list, tuple)) or hasattr(y, "to_numpy"):
            # A copy, as a table's own values are read-only.
            y = np.array(as_numbers("y", y, np.float32))
        self.has_flat_targets_ = np.ndim(y) < 2  # None, of a dataset, too
        return y

    def _signal_properties(self, X: Any, y: Any) -> dict[str, Any]:
        found = super()._signal_properties(X, y)
        if is_dataset(X) and y is None and found.get("n_outputs") is None:
            found["n_outputs"] = np.size(X[0][1])  # braindecode reads X[0], too
        return found

    def predict(self, X: Any) -> Any:
        """Predict, in the shape of the targets to which the net was fitted.

        With one output, that is (n_windows,) unless the targets had a column.
        """
        predicted = super().predict(X)
        # While training, callbacks compare predictions with targets of batches.
        is_flat = self.has_flat_targets_ and not self.is_training_
        return predicted[:, 0] if is_flat and predicted.shape[1:] == (1,) else predicted

    def get_loss(self, y_pred: Any, y_true: Any, *args: Any, **kwargs: Any) -> Any:
        """Compute the loss, with targets in the shape of the predictions."""
        if np.ndim(y_true) == 1 and np.shape(y_pred) == (len(y_true), 1):
            y_true = y_true[:, None]  # or each would be compared with all predictions
        return super().get_loss(y_pred, y_true, *args, **kwargs)
