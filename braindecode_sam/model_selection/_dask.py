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
    """Let scikit-learn cross-validate on a Dask cluster that may lose workers.

    joblib's Dask backend sends the rows of a fold to a single worker, and Dask's memory
    manager drops what more than one worker has, so that with a lost worker data are
    lost and with them the scores. Here, data and rows go to each worker once and stay
    as long as the context is open; folds of a lost worker run again elsewhere.

    Parameters
    ----------
    X : array-like of shape (n_windows, n_chans, n_times)
        The very object that ``cross_validate`` is given.
    y : array-like of shape (n_windows,) or (n_windows, n_outputs)
        Likewise.
    splits : list of tuple of ndarray
        Training and test rows of each fold, ``list(cv.split(X, y, groups))``; the very
        list that ``cross_validate`` is given as ``cv``.
    client : distributed.Client or None, default=None
        Cluster to run on; None means the current one.
    **options
        Of joblib's Dask backend.

    Raises
    ------
    ImportError
        Without Dask; ``pip install "braindecode_sam[distributed]"``.
    TypeError
        If `splits` is not such a list.
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
    import distributed  # an extra, which only those need who have a cluster

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
