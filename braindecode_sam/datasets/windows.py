"""Windows with targets, cut from recordings."""

from __future__ import annotations

import inspect
import logging
import math
import sys
from numbers import Real
from typing import Any

import mne
import numpy as np
import pandas as pd
from braindecode.datasets import BaseConcatDataset, EEGWindowsDataset, RawDataset
from braindecode.preprocessing import create_fixed_length_windows
from numpy.typing import NDArray

from braindecode_sam._arguments import check_number, check_positive

log = logging.getLogger(__name__)

# braindecode 1.8 renamed this argument and warns about the old name.
_DROP_LAST = (
    {"on_last_window": "drop"}
    if "on_last_window" in inspect.signature(create_fixed_length_windows).parameters
    else {"drop_last_window": True}
)


def subject_target_windows(
    recordings: BaseConcatDataset,
    target: str,
    *,
    window_seconds: float = 4.0,
    stride_seconds: float | None = None,
) -> BaseConcatDataset:
    """Cut recordings into windows with a target of the subject.

    Parameters
    ----------
    recordings : BaseConcatDataset of RawDataset
        Recordings, for example from :func:`read_recordings`.
    target : str
        Numeric column of the recordings' descriptions.
    window_seconds : float, default=4.0
        Length of a window in seconds.
    stride_seconds : float, optional
        Distance in seconds between the beginnings of consecutive windows, by default
        `window_seconds`. The remainder of a recording is dropped.

    Returns
    -------
    windows : BaseConcatDataset
        Windows with targets of shape (1,), for ``EEGRegressor.fit(windows, y=None)`` or
        :func:`to_arrays`.

    Raises
    ------
    ValueError
        If a recording lacks the column, its value is not a finite number, or a window
        is longer than a recording.

    See Also
    --------
    response_time_windows : Windows with a target for each stimulus.
    """
    stride_seconds = window_seconds if stride_seconds is None else stride_seconds
    n_times = _n_samples("window_seconds", window_seconds, recordings)
    stride = _n_samples("stride_seconds", stride_seconds, recordings)
    shortest = min(recording.raw.n_times for recording in recordings.datasets)
    if n_times > shortest:
        raise ValueError(
            f"window_seconds must not exceed the shortest recording ({shortest}"
            f" samples), got {window_seconds!r} ({n_times} samples)"
        )
    for recording in recordings.datasets:
        _check_has_number(recording.description, target)
        recording.target_name = target
    windows = create_fixed_length_windows(
        recordings,
        window_size_samples=n_times,
        window_stride_samples=stride,
        **_DROP_LAST,
    )
    windows.target_transform = as_column
    return windows


def response_time_windows(
    recordings: BaseConcatDataset,
    *,
    stimulus: str | list[str],
    response: str | list[str],
    window_seconds: float,
    offset_seconds: float = 0.0,
    limits: tuple[float, float] = (0.0, math.inf),
) -> BaseConcatDataset:
    """Cut a window at each stimulus, with the response time as its target.

    The response to a stimulus is the first one before the next stimulus. Stimuli are
    dropped if they have no response, if the response time is outside of `limits`, or if
    the window extends beyond the recording. A log line at level INFO counts them for
    each recording.

    Parameters
    ----------
    recordings : BaseConcatDataset of RawDataset
        Recordings with annotations, for example from :func:`read_recordings`.
    stimulus, response : str or list of str
        Descriptions of the annotations that mark stimuli and responses. A list names
        several, such as those of left and right.
    window_seconds : float
        Length of a window in seconds.
    offset_seconds : float, default=0.0
        Time in seconds from the stimulus to the beginning of the window. It may be
        negative.
    limits : tuple of float, default=(0.0, inf)
        Shortest and longest response time in seconds.

    Returns
    -------
    windows : BaseConcatDataset of EEGWindowsDataset
        Windows with targets of shape (1,) in seconds, and the metadata column
        ``response_time``.

    Raises
    ------
    ValueError
        If a recording lacks stimuli or responses, or no trial is left.

    See Also
    --------
    subject_target_windows : Windows with a target of the subject.
    """
    _n_samples("window_seconds", window_seconds, recordings)
    check_number("offset_seconds", offset_seconds)
    _check_limits(limits)
    datasets = []
    for recording in recordings.datasets:
        raw, description = recording.raw, recording.description
        onsets = _onsets(raw, stimulus, "stimulus", description)
        responses = _onsets(raw, response, "response", description)
        times = response_times(onsets, responses)
        begins = onsets + offset_seconds
        trials = _usable_trials(recording, begins, times, window_seconds, limits)
        if len(trials):
            datasets.append(EEGWindowsDataset(raw, trials, description))
    if not datasets:
        raise ValueError(
            f"no trial is left that has a response time within limits={limits} and a"
            f" window of {window_seconds} s inside its recording"
        )
    return BaseConcatDataset(datasets, target_transform=as_column)


def response_times(
    onsets: NDArray[np.float64], responses: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Compute the time to the response before the next stimulus, else nan.

    Both are times in seconds, in ascending order.
    """
    following = np.append(responses, math.inf)[np.searchsorted(responses, onsets)]
    answered = following < np.append(onsets[1:], math.inf)
    return np.where(answered, following - onsets, math.nan)


def as_column(y: Any) -> NDArray[np.float32]:
    """Convert a target to the shape of a prediction, (1,).

    MSELoss would broadcast a batch of scalars, and compare each with all predictions.
    """
    return np.atleast_1d(np.float32(y))


def _check_has_number(description: pd.Series, target: str) -> None:
    if target not in description.index:
        raise ValueError(
            f"target must be a column of all recordings, got {target!r}, but recording"
            f" {_name(description)} has {list(description.index)}"
        )
    value = description[target]
    if not isinstance(value, Real) or not math.isfinite(value):
        raise ValueError(
            f"column {target!r} of recording {_name(description)} must hold a finite"
            f" number, got {value!r}"
        )


def _n_samples(name: str, seconds: float, recordings: BaseConcatDataset) -> int:
    check_positive(name, seconds)
    sfreq = recordings.datasets[0].raw.info["sfreq"]
    n_samples = round(seconds * sfreq) if seconds * sfreq < sys.maxsize else sys.maxsize
    if n_samples < 1:
        raise ValueError(
            f"{name} must be at least one sample, {1 / sfreq} s, got {seconds!r}"
        )
    return n_samples


def _name(description: pd.Series) -> str:
    return description.get("path", description.get("subject", "?"))


def _check_limits(limits: tuple[float, float]) -> None:
    accepted = (
        "limits must be the shortest and the longest response time in seconds, in"
        f" ascending order, got {limits!r}"
    )
    is_pair = isinstance(limits, (tuple, list, np.ndarray)) and len(limits) == 2
    if not is_pair or not all(isinstance(limit, Real) for limit in limits):
        raise TypeError(accepted)
    if not 0 <= limits[0] < limits[1]:
        raise ValueError(accepted)


def _onsets(
    raw: mne.io.BaseRaw, names: str | list[str], argument: str, description: pd.Series
) -> NDArray[np.float64]:
    annotations = raw.annotations
    here = np.isin(annotations.description, names)
    if not here.any():
        known = sorted(set(map(str, annotations.description)))
        raise ValueError(
            f"{argument} must name events of all recordings, got {names!r}, but"
            f" recording {_name(description)} has {known}"
        )
    # MNE counts onsets from the beginning of the recording before any cropping.
    return np.sort(annotations.onset[here]) - raw.first_time


def _usable_trials(
    recording: RawDataset,
    begins: NDArray[np.float64],
    times: NDArray[np.float64],
    window_seconds: float,
    limits: tuple[float, float],
) -> pd.DataFrame:
    """Return the metadata of windows, and log how many were left out."""
    raw, sfreq = recording.raw, recording.raw.info["sfreq"]
    # Clip starts far outside of the recording to the range of integers. The product may
    # overflow to infinity.
    with np.errstate(over="ignore"):
        starts = np.round(begins * sfreq).clip(-1, raw.n_times).astype(int)
    stops = starts + round(min(window_seconds * sfreq, raw.n_times + 1))
    trials = pd.DataFrame(
        {
            "i_window_in_trial": 0,
            "i_start_in_trial": starts,
            "i_stop_in_trial": stops,
            "target": times,
            "response_time": times,
        }
    )
    answered = ~np.isnan(times)
    within = answered & (limits[0] <= times) & (times <= limits[1])
    inside = (starts >= 0) & (stops <= raw.n_times)
    log.info(
        "%s: kept %d of %d trials; left out %d without a response, %d with a response"
        " time outside of %s s, %d with a window beyond the recording",
        _name(recording.description),
        (within & inside).sum(),
        len(trials),
        (~answered).sum(),
        (answered & ~within).sum(),
        limits,
        (within & ~inside).sum(),
    )
    return trials[within & inside].reset_index(drop=True)
