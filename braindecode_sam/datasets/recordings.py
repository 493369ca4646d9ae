"""Windows with targets out of real recordings."""

import logging
import math
import re
import sys
import warnings
from numbers import Real
from pathlib import Path

import mne
import numpy as np
import pandas as pd
from braindecode.datasets import BaseConcatDataset, EEGWindowsDataset, RawDataset
from braindecode.preprocessing import create_fixed_length_windows

from braindecode_sam._arguments import (
    check_choice,
    check_non_negative,
    check_number,
    check_positive,
)
from braindecode_sam.datasets.arrays import MICROVOLTS

MAX_SIGNALS = 9999  # of an EDF file: the header counts them in four characters

log = logging.getLogger(__name__)


def read_recordings(
    paths, *, participants=None, subject_of=None, picks=None, sfreq=None, on_bad="raise"
):
    """Read recordings in any format that MNE reads.

    Parameters
    ----------
    paths : iterable of path-like
        Files. All must have the same channels after `picks`.
    participants : pandas.DataFrame or path-like, optional
        Table with a row for each subject, whose first column names the subject; as
        a path, a file of comma- or (``.tsv``) tab-separated values. Its columns go
        into the recordings' descriptions.
    subject_of : callable, optional
        Gets a Path, returns the subject. By default the file's name up to the first
        underscore: ``sub-01_task-rest_eeg.edf`` is of ``sub-01``.
    picks : str or list of str, optional
        Channels to keep, as MNE names them; default all.
    sfreq : float, optional
        Resample to this frequency in Hz.
    on_bad : {"raise", "warn"}, default="raise"
        What to do about files that cannot be read, are empty, shorter than their
        header says, or hold values that are not finite: refuse all, naming every
        bad file, or warn and leave those out.

    Returns
    -------
    recordings : BaseConcatDataset of RawDataset
        Loaded, in **microvolts** (nets train badly on volts, whose variance is far
        below BatchNorm's eps), described by ``subject``, ``path`` and the
        participant's columns.

    Raises
    ------
    ValueError
        If a file is bad, a subject is not in the table, channels differ between
        recordings, or nothing is left.
    """
    check_choice("on_bad", on_bad, ("raise", "warn"))
    if sfreq is not None:
        check_positive("sfreq", sfreq)
    paths = [Path(path) for path in paths]
    table = None if participants is None else _read_table(participants)
    subjects = [(subject_of or _subject_in_name)(path) for path in paths]
    descriptions = [
        {"subject": subject, "path": str(path), **_row_of(table, subject, path)}
        for subject, path in zip(subjects, paths, strict=True)
    ]
    raws = _read_all(paths, on_bad)
    recordings = [
        RawDataset(_prepare(raw, picks, sfreq), description)
        for raw, description in zip(raws, descriptions, strict=True)
        if raw is not None
    ]
    _check_same_channels(recordings)
    return BaseConcatDataset(recordings)


def subject_target_windows(
    recordings, target, *, window_seconds=4.0, stride_seconds=None
):
    """Cut recordings into windows whose target belongs to the subject.

    Parameters
    ----------
    recordings : BaseConcatDataset of RawDataset
        For example from :func:`read_recordings`.
    target : str
        Column of the recordings' descriptions, numbers.
    window_seconds : float, default=4.0
        Length of a window.
    stride_seconds : float, optional
        Distance between the beginnings of windows; default `window_seconds`. What
        is left at the end of a recording is dropped.

    Returns
    -------
    windows : BaseConcatDataset
        Windows with targets of shape (1,), ready for ``EEGRegressor.fit(windows,
        y=None)`` or :func:`to_arrays`.

    Raises
    ------
    ValueError
        If a recording does not have the column, or no number in it.
    """
    stride_seconds = window_seconds if stride_seconds is None else stride_seconds
    n_times = _n_samples("window_seconds", window_seconds, recordings)
    stride = _n_samples("stride_seconds", stride_seconds, recordings)
    shortest = min(recording.raw.n_times for recording in recordings.datasets)
    if n_times > shortest:
        raise ValueError(
            f"window_seconds is {window_seconds!r}, {n_times} samples, but the shortest"
            f" recording has {shortest}"
        )
    for recording in recordings.datasets:
        _check_has_number(recording.description, target)
        recording.target_name = target
    windows = create_fixed_length_windows(
        recordings,
        window_size_samples=n_times,
        window_stride_samples=stride,
        on_last_window="drop",
    )
    windows.target_transform = as_column
    return windows


def response_time_windows(
    recordings,
    *,
    stimulus,
    response,
    window_seconds,
    offset_seconds=0.0,
    limits=(0.0, math.inf),
):
    """Cut a window at each stimulus, with the response time as its target.

    A response belongs to the last stimulus before it, and only the first one
    counts. A stimulus without a response before the next stimulus, with a response
    time outside of `limits`, or with a window that leaves the recording is left out;
    a log line (level INFO) for each recording counts them.

    Parameters
    ----------
    recordings : BaseConcatDataset of RawDataset
        For example from :func:`read_recordings`, with annotations.
    stimulus, response : str
        Descriptions of the annotations that mark them.
    window_seconds : float
        Length of a window.
    offset_seconds : float, default=0.0
        Beginning of a window after its stimulus; may be negative.
    limits : tuple of float, default=(0.0, inf)
        Shortest and longest response time in seconds.

    Returns
    -------
    windows : BaseConcatDataset of EEGWindowsDataset
        Windows with targets in seconds of shape (1,), and the metadata column
        ``response_time``.

    Raises
    ------
    ValueError
        If a recording has no event of one of the names, or no trial is left.
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
        trials = _trials(raw, onsets, times, offset_seconds, window_seconds)
        kept = trials[_usable(trials, raw, limits, description)]
        if len(kept):
            metadata = kept.reset_index(drop=True)
            datasets.append(EEGWindowsDataset(raw, metadata, description))
    if not datasets:
        raise ValueError(
            f"no trial with a response time within limits={limits} and a window of"
            f" {window_seconds} s inside its recording is left"
        )
    return BaseConcatDataset(datasets, target_transform=as_column)


def response_times(onsets, responses):
    """Time from each stimulus to its response.

    Parameters
    ----------
    onsets : ndarray of shape (n_stimuli,)
        Times of the stimuli in seconds, ascending.
    responses : ndarray of shape (n_responses,)
        Times of the responses in seconds, ascending.

    Returns
    -------
    times : ndarray of shape (n_stimuli,)
        Seconds; nan where the next stimulus comes before a response.

    Examples
    --------
    >>> import numpy as np
    >>> response_times(np.array([1.0, 2.0, 5.0]), np.array([2.25, 2.75, 5.5]))
    array([ nan, 0.25, 0.5 ])
    """
    following = np.append(responses, math.inf)[np.searchsorted(responses, onsets)]
    answered = following < np.append(onsets[1:], math.inf)
    return np.where(answered, following - onsets, math.nan)


def as_column(y):
    """Make a target one row of a column, as a net with one output predicts it.

    Left a number, a batch of targets has the shape (batch,) and the predictions
    (batch, 1): MSELoss would compare every one with every other.
    """
    return np.atleast_1d(np.float32(y))


def _read_table(participants):
    if not isinstance(participants, pd.DataFrame):
        separator = "\t" if str(participants).endswith(".tsv") else ","
        participants = pd.read_csv(participants, sep=separator)
    names = participants.columns[0]
    return participants.astype({names: str}).set_index(names)


def _subject_in_name(path):
    return re.match("[^_.]*", path.name).group()


def _row_of(table, subject, path):
    if table is None:
        return {}
    if subject not in table.index:
        raise ValueError(
            f"participants has no row for {subject!r} (of {path}); it has"
            f" {', '.join(table.index[:5])}{', ...' if len(table) > 5 else ''}"
        )
    return table.loc[subject].to_dict()


def _read_all(paths, on_bad):
    raws, bad = [], []
    for path in paths:
        try:
            raws.append(_read_one(path))
        # MNE's readers raise whatever their parsing stumbles over.
        except Exception as error:
            raws.append(None)
            bad.append(f"{path}: {error}")
    if bad:
        message = "cannot read " + "; ".join(bad)
        if on_bad == "raise" or len(bad) == len(paths):
            raise ValueError(message)
        warnings.warn(f"left out: {message}", stacklevel=3)
    if not raws:
        raise ValueError(f"paths must name at least one recording, got {paths!r}")
    return raws


def _read_one(path):
    size = path.stat().st_size
    if size == 0:
        raise ValueError("the file is empty")
    raw = mne.io.read_raw(path, preload=True, verbose="error")
    if path.suffix.lower() == ".edf":
        _check_complete(path, size)
    if not np.isfinite(raw.get_data()).all():
        raise ValueError("the recording holds NaN or infinite values")
    return raw


def _check_complete(path, size):
    """Compare an EDF file's size with its header; MNE reads what there is."""
    with path.open("rb") as file:
        header = file.read(256 * (1 + MAX_SIGNALS))
    header_bytes, n_records = int(header[184:192]), int(header[236:244])
    n_signals = int(header[252:256])
    start = 256 + n_signals * 216
    lengths = [int(header[start + 8 * i :][:8]) for i in range(n_signals)]
    expected = header_bytes + 2 * sum(lengths) * n_records  # two bytes a sample
    if size < expected:  # n_records is -1 while a recording is not closed
        raise ValueError(f"the file is truncated: {size} of {expected} bytes are there")


def _prepare(raw, picks, sfreq):
    if picks is not None:
        raw.pick(picks, verbose="error")
    if sfreq is not None and raw.info["sfreq"] != sfreq:
        raw.resample(sfreq, verbose="error")
    kinds = ("eeg", "eog", "ecg", "emg")
    types = zip(raw.ch_names, raw.get_channel_types(), strict=True)
    volts = [name for name, kind in types if kind in kinds]
    return raw.apply_function(
        lambda x: MICROVOLTS * x, picks=volts, channel_wise=False, verbose="error"
    )


def _check_same_channels(recordings):
    first = recordings[0]
    for other in recordings[1:]:
        for what in ("ch_names", "sfreq"):
            expected, found = first.raw.info[what], other.raw.info[what]
            if found != expected:
                raise ValueError(
                    f"recordings differ in {what}: {other.description['path']} has"
                    f" {found}, {first.description['path']} has {expected}. Choose"
                    " common ones with picks and sfreq."
                )


def _check_has_number(description, target):
    if target not in description.index:
        raise ValueError(
            f"recording {_name(description)} has no column {target!r}; it has"
            f" {list(description.index)}"
        )
    try:
        check_non_negative(target, abs(description[target]))
    except (TypeError, ValueError):
        raise ValueError(
            f"column {target!r} of recording {_name(description)} must hold a finite"
            f" number, got {description[target]!r}"
        ) from None


def _n_samples(name, seconds, recordings):
    check_positive(name, seconds)
    sfreq = recordings.datasets[0].raw.info["sfreq"]
    n_samples = round(seconds * sfreq) if seconds * sfreq < sys.maxsize else sys.maxsize
    if n_samples < 1:
        raise ValueError(
            f"{name} must be at least one sample, {1 / sfreq} s, got {seconds!r}"
        )
    return n_samples


def _name(description):
    return description.get("path", description.get("subject", "?"))


def _check_limits(limits):
    accepted = (
        "limits must be the shortest and the longest response time in seconds, the"
        f" first smaller, got {limits!r}"
    )
    is_pair = isinstance(limits, (tuple, list, np.ndarray)) and len(limits) == 2
    if not is_pair or not all(isinstance(limit, Real) for limit in limits):
        raise TypeError(accepted)
    if not 0 <= limits[0] < limits[1]:
        raise ValueError(accepted)


def _onsets(raw, event, argument, description):
    annotations = raw.annotations
    here = annotations.description == event
    if not here.any():
        names = sorted(set(annotations.description))
        raise ValueError(
            f"{argument} names the event {event!r}, which recording"
            f" {_name(description)} does not have; it has {names}"
        )
    # Where annotations have a date of their own, MNE counts from that.
    first = 0.0 if annotations.orig_time is None else raw.first_time
    return np.sort(annotations.onset[here]) - first


def _trials(raw, onsets, times, offset_seconds, window_seconds):
    sfreq = raw.info["sfreq"]
    # What leaves the recording anyway is cut to what an integer holds.
    starts = np.round((onsets + offset_seconds) * sfreq).clip(-1, raw.n_times)
    starts = starts.astype(int)
    n_samples = min(round(window_seconds * sfreq), raw.n_times + 1)
    return pd.DataFrame(
        {
            "i_window_in_trial": 0,
            "i_start_in_trial": starts,
            "i_stop_in_trial": starts + n_samples,
            "target": times,
            "response_time": times,
        }
    )


def _usable(trials, raw, limits, description):
    times = trials["target"]
    answered = times.notna()
    within = times.between(*limits) & answered
    inside = trials["i_start_in_trial"].ge(0) & trials["i_stop_in_trial"].le(len(raw))
    log.info(
        "%s: kept %d of %d trials; left out %d without a response, %d with a response"
        " time outside of %s s, %d with a window that leaves the recording",
        _name(description),
        (within & inside).sum(),
        len(trials),
        (~answered).sum(),
        (answered & ~within).sum(),
        limits,
        (within & ~inside).sum(),
    )
    return within & inside
