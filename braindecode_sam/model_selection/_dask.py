"""Cross-validation on a Dask cluster."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import joblib


@contextlib.contextmanager
def on_dask(
    X: Any, y: Any, splits: list[Any], client: Any = None, **options: Any
) -> Iterator[Any]:
    """Run ``cross_validate`` on a Dask cluster that may lose workers.

    joblib's Dask backend sends the rows of a fold to one worker, and Dask's memory
    manager drops copies on other workers. If a worker is lost, its data and scores are
    lost too. This context sends data and rows to each worker once and keeps them while
    it is open. Folds of a lost worker run again on another one.

    Parameters
    ----------
    X : array-like of shape (n_windows, n_chans, n_times)
        The same object as is passed to ``cross_validate``.
    y : array-like of shape (n_windows,) or (n_windows, n_outputs)
        The same object as is passed to ``cross_validate``.
    splits : list of tuple of ndarray
        Training and test rows of each fold, ``list(cv.split(X, y, groups))``. Pass the
        same list to ``cross_validate`` as ``cv``.
    client : distributed.Client or None, default=None
        Client of the cluster. None means the current one.
    **options
        Options of joblib's Dask backend.

    Raises
    ------
    ImportError
        If Dask is missing. ``pip install "braindecode_sam[distributed]"`` installs it.
    TypeError
        If `splits` is not a list.
    ValueError
        If there is no client.

    Examples
    --------
    ::

        splits = list(GroupKFold(5).split(X, y, groups))
        with Client("tcp://scheduler:8786"), on_dask(X, y, splits):
            scores = cross_validate(net, X, y, cv=splits, scoring=SCORING)
    """
    if not isinstance(splits, list):
        raise TypeError(
            "splits must be a list of training and test rows, such as"
            f" list(cv.split(X, y, groups)), got {splits!r}"
        )
    import distributed  # an optional dependency

    rows = [part for split in splits for part in split]
    client = distributed.get_client() if client is None else client
    manages_memory = client.amm.running()
    client.amm.stop()
    try:
        with joblib.parallel_config(
            "dask", client=client, scatter=[X, y, *rows], **options
        ):
            yield client
    finally:
        if manages_memory:
            client.amm.start()
