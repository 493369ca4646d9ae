"""Windows with targets, cut from recordings."""

from __future__ import annotations

import logging
import math
import os
import sys
from numbers import Real
from typing import Any

import mne
import numpy as np
import pandas as pd
from braindecode.datasets import BaseConcatDataset, EEGWindowsDataset, RawDataset
from numpy.typing import NDArray

from braindecode_sam._arguments import check_number, check_positive
from braindecode_sam.datasets._participants import read_participants, row_of

log = logging.getLogger(__name__)


def subject_target_windows(
    recordings: BaseConcatDataset,
    target: str,
    *,
    participants: pd.DataFrame | str | os.PathLike[str] | None = None,
    window_seconds: float = 4.0,
    stride_seconds: float | None = None,
    reject_by_annotation: bool = True,
) -> BaseConcatDataset:
    """Cut recordings into windows with a target of the subject.

    Parameters
    ----------
    recordings : BaseConcatDataset of RawDataset
        Recordings, for example from :func:`read_recordings`. They are not modified.
    target : str
        Column of the recordings' descriptions, or of `participants`. It holds numbers,
        which may be written as text.
    participants : pandas.DataFrame or path-like, optional
        Table with a row for each subject, as in :func:`read_recordings`. The subject is
        the column ``subject`` of the descriptions, with or without BIDS's ``sub-``.
    window_seconds : float, default=4.0
        Length of a window in seconds.
    stride_seconds : float, optional
        Distance in seconds between the beginnings of consecutive windows, by default
        `window_seconds`. The remainder of a recording is dropped.
    reject_by_annotation : bool, default=True
        As in :func:`response_time_windows`, for windows.

    Returns
    -------
    windows : BaseConcatDataset
        Windows with targets of shape (1,), for ``EEGRegressor.fit(windows, y=None)`` or
        :func:`to_arrays`.

    Raises
    ------
    ValueError
        If a recording lacks the column, its value is not a finite number, a window is
        longer than a recording, or no window is left.

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
    table = None if participants is None else read_participants(participants)
    values = [_target_of(one.description, target, table) for one in recordings.datasets]
    datasets, n_cut = [], 0
    for recording, value in zip(recordings.datasets, values, strict=True):
        starts = np.arange(0, recording.raw.n_times - n_times + 1, stride)
        if reject_by_annotation:
            is_cut = _are_cut(recording.raw, starts, starts + n_times)
            n_cut += int(is_cut.sum())
            starts = starts[~is_cut]
        numbers = np.arange(len(starts))
        datasets += _windows(recording, starts, starts + n_times, value, numbers)
    n_windows = sum(map(len, datasets))
    log.info("kept %d windows; left out %d across a cut", n_windows, n_cut)
    if not datasets:
        raise ValueError(f"no window is left of {n_cut}, as all are across a cut")
    return BaseConcatDataset(datasets, target_transform=as_column)


def response_time_windows(
    recordings: BaseConcatDataset,
    *,
    stimulus: str | list[str],
    response: str | list[str],
    window_seconds: float,
    offset_seconds: float = 0.0,
    limits: tuple[float, float] = (0.0, math.inf),
    reject_by_annotation: bool = True,
) -> BaseConcatDataset:
    """Cut a window at each stimulus, with the response time as its target.

    The response to a stimulus is the first one before the next stimulus. Stimuli are
    dropped if they have no response, if the response time is outside of `limits`, if
    the window extends beyond the recording, or if the trial is across a cut. A log line
    at level INFO counts them.

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
    reject_by_annotation : bool, default=True
        Whether to drop trials across a cut, from the stimulus or the beginning of the
        window to the response or the end of the window. Cuts are annotations that begin
        with "BAD", and places where data were left out or recordings joined:
        "boundary" of EEGLAB, "New Segment/" of BrainVision, and "BAD boundary" and
        "EDGE boundary" of MNE.

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
    datasets, counts = [], np.zeros(5, dtype=int)
    for recording in recordings.datasets:
        raw, description = recording.raw, recording.description
        onsets = _onsets(raw, stimulus, "stimulus", description)
        responses = _onsets(raw, response, "response", description)
        times = response_times(onsets, responses)
        sfreq = raw.info["sfreq"]
        # Clip starts far outside of the recording to the range of integers. The product
        # may overflow to infinity.
        with np.errstate(over="ignore"):
            starts = np.round((onsets + offset_seconds) * sfreq)
        starts = starts.clip(-1, raw.n_times).astype(int)
        stops = starts + round(min(window_seconds * sfreq, raw.n_times + 1))
        answered = ~np.isnan(times)
        within = answered & (limits[0] <= times) & (times <= limits[1])
        inside = within & (starts >= 0) & (stops <= raw.n_times)
        kept = inside
        if reject_by_annotation:
            begins = np.minimum(starts, np.round(onsets * sfreq))
            ends = np.fmax(stops, np.round((onsets + times) * sfreq))
            kept = inside & ~_are_cut(raw, begins, ends)
        stages = [np.ones(len(times)), answered, within, inside, kept]
        counts += [int(stage.sum()) for stage in stages]
        starts, stops, times = starts[kept], stops[kept], times[kept]
        datasets += _windows(recording, starts, stops, times, 0, response_time=times)
    n_trials, *left_out = [counts[0], *-np.diff(counts)]
    log.info(
        "kept %d of %d trials; left out %d without a response, %d with a response time"
        " outside of %s s, %d with a window beyond the recording, %d across a cut",
        counts[-1], n_trials, *left_out[:2], limits, *left_out[2:],
    )  # fmt: skip
    if not datasets:
        raise ValueError(
            f"no trial is left that has a response time within limits={limits} and a"
            f" window of {window_seconds} s inside its recording, not across a cut"
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


def _target_of(
    description: pd.Series, target: str, table: pd.DataFrame | None
) -> float:
    row = dict(description)
    if table is not None:
        row = {**row, **row_of(table, row.get("subject"))}
    if target not in row:
        raise ValueError(
            f"target must be a column of all recordings, got {target!r}, but recording"
            f" {_name(description)} has {list(row)}"
        )
    try:
        value = float(row[target])
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(
            f"column {target!r} of recording {_name(description)} must hold a finite"
            f" number, got {row[target]!r}"
        )
    return value


def _windows(
    recording: RawDataset,
    starts: Any,
    stops: Any,
    targets: Any,
    numbers: Any,
    **more: Any,
) -> list[EEGWindowsDataset]:
    """Make a windows dataset of a recording, or none if there are no windows."""
    if not len(starts):
        return []
    columns = {
        "i_window_in_trial": numbers,
        "i_start_in_trial": starts,
        "i_stop_in_trial": stops,
        "target": targets,
    }
    metadata = pd.DataFrame(columns | more)
    windows = EEGWindowsDataset(recording.raw, metadata, recording.description)
    windows.window_kwargs = []  # which braindecode's load_concat_dataset expects
    return [windows]


def _are_cut(raw: mne.io.BaseRaw, begins: Any, ends: Any) -> NDArray[np.bool_]:
    """Return which of the spans from `begins` to `ends`, in samples, are across a cut.

    A span may begin where data were left out.
    """
    is_cut = np.zeros(len(begins), dtype=bool)
    for annotation in raw.annotations:
        name = annotation["description"].lower()
        is_point = name.startswith(("boundary", "new segment", "edge"))
        if is_point or name.startswith("bad"):
            onset = (annotation["onset"] - raw.first_time) * raw.info["sfreq"]
            # EEGLAB's boundaries last as long as what was left out.
            length = 0 if is_point else annotation["duration"] * raw.info["sfreq"]
            # The first sample after; EEGLAB's boundaries are between two samples.
            start, stop = (math.ceil(t - 1e-6) for t in (onset, onset + length))
            is_cut |= (begins < start) & (start < ends)
            is_cut |= (begins < stop) & (start < ends) & (start < stop)
    return is_cut


def _n_samples(name: str, seconds: float, recordings: BaseConcatDataset) -> int:
    check_positive(name, seconds)
    rates = {recording.raw.info["sfreq"] for recording in recordings.datasets}
    if len(rates) > 1:
        raise ValueError(
            f"recordings must have the same sfreq, got {sorted(rates)}; resample them"
        )
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
