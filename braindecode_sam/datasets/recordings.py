"""Recordings in any format, checked and converted to microvolts."""

from __future__ import annotations

import logging
import math
import os
import warnings
from collections.abc import Callable, Iterable
from numbers import Real
from pathlib import Path
from typing import Any

import mne
import numpy as np
import pandas as pd
from braindecode.datasets import BaseConcatDataset, RawDataset

from braindecode_sam._arguments import check_choice, check_positive
from braindecode_sam.datasets._channels import MICROVOLTS, in_volts, input_channels
from braindecode_sam.datasets._completeness import (
    check_complete,
    has_several_rates,
    read_header,
)
from braindecode_sam.datasets._participants import read_participants, row_of

log = logging.getLogger(__name__)

Crop = tuple[float | None, float | None] | None


def read_recordings(
    paths: str | os.PathLike[str] | Iterable[Any],
    *,
    participants: pd.DataFrame | str | os.PathLike[str] | None = None,
    subject_of: Callable[[Path], Any] | None = None,
    picks: str | list[str] | None = None,
    sfreq: float | None = None,
    crop: Crop = None,
    on_bad: str = "raise",
) -> BaseConcatDataset:
    """Read recordings in any format that MNE reads.

    Parameters
    ----------
    paths : path-like or iterable of path-like
        One or several files. All must have the same channels after `picks`.
    participants : pandas.DataFrame or path-like, optional
        Table with a row for each subject, whose first column names the subject. A path
        names a file of comma-separated or, for ``.tsv``, tab-separated values. The
        columns are added to the recordings' descriptions.
    subject_of : callable, optional
        Function that takes a Path and returns the subject. By default, the subject is
        the file name up to the first underscore: ``sub-01_task-rest_eeg.edf`` belongs
        to ``sub-01``. A name without an underscore is a subject of its own.
    picks : str or list of str, optional
        Channels to keep, as in MNE. By default all that may be inputs of a model:
        triggers, which hold the labels, and channels of types such as "misc" are left
        out. A log line at level INFO names them.
    sfreq : float, optional
        Resample to this frequency in Hz.
    crop : tuple of float or None, optional
        Part to keep, ``(tmin, tmax)`` in seconds from the beginning of each recording,
        before any resampling. None stands for the beginning or the end. The sample at
        `tmax` is excluded, so ``(0, 60)`` keeps 60 seconds. Annotations stay at their
        events, and annotations that begin outside are dropped.
    on_bad : {"raise", "warn"}, default="raise"
        Whether to raise an error that names every bad file, or to warn and skip these
        files. Bad files cannot be read, are empty, are shorter than their header or
        `crop` requires, hold values that are not finite in the part to keep, or are of
        a subject without a row in `participants`.

    Returns
    -------
    recordings : BaseConcatDataset of RawDataset
        Loaded recordings in **microvolts**, since the variance of EEG in volts is far
        below the eps of BatchNorm. Their descriptions hold ``subject``, ``path`` and
        the columns of `participants`.

    Raises
    ------
    TypeError
        If `crop` is not a pair of numbers or None.
    ValueError
        If a file is bad, channels differ between recordings, no recording is left, or
        `crop` is not in ascending order.

    Warns
    -----
    UserWarning
        If files are skipped, or if names of files without an underscore are taken for
        subjects. Warnings of MNE's readers are shown, too.

    See Also
    --------
    subject_target_windows : Cut windows with a target of the subject.
    response_time_windows : Cut windows with response times.

    Notes
    -----
    The length of EDF and BDF files is compared with their headers, and that of
    BrainVision files if their header has the entry ``DataPoints``. Other formats that
    do not store their length, such as Persyst, are read as far as they go.

    The project's examples and study read the EEG of Zyma et al. [1]_, recorded at rest
    and during mental arithmetic, from PhysioNet.

    References
    ----------
    .. [1] Zyma et al. (2019). Electroencephalograms during Mental Arithmetic Task
       Performance. Data, 4(1), 14. https://doi.org/10.3390/data4010014
    """
    check_choice("on_bad", on_bad, ("raise", "warn"))
    _check_crop(crop)
    if sfreq is not None:
        check_positive("sfreq", sfreq)
    if isinstance(paths, (str, os.PathLike)):
        paths = [paths]
    paths = [Path(path) for path in paths]
    table = None if participants is None else read_participants(participants)
    recordings, bad = [], []
    left_out: set[str] = set()
    parts: dict[Path, Path] = {}  # of recordings in several files
    for path in paths:
        subject = _subject_in_name(path) if subject_of is None else subject_of(path)
        try:
            if path.resolve() in parts:
                raise ValueError(f"it is a part of {parts[path.resolve()]}")
            row = {} if table is None else row_of(table, subject)
            raw = _read(path, picks, sfreq, crop, left_out)
        # MNE's readers raise errors of many types.
        except Exception as error:
            bad.append(f"{path}: {error}")
        else:
            description = {"subject": subject, "path": str(path), **row}
            recordings.append(RawDataset(raw, description))
            files = [Path(file).resolve() for file in raw.filenames if file]
            parts |= {file: path for file in files if file != path.resolve()}
    if bad:
        message = "cannot read " + "; ".join(bad)
        if on_bad == "raise" or not recordings:
            raise ValueError(message)
        warnings.warn(f"skipped recordings: {message}", stacklevel=2)
    if not recordings:
        raise ValueError(f"paths must name at least one recording, got {paths!r}")
    if left_out:
        log.info("left out the channels %s", ", ".join(sorted(left_out)))
    unnamed = [path.name for path in paths if "_" not in path.stem]
    if subject_of is None and len(unnamed) > 1:
        warnings.warn(
            f"each of {len(unnamed)} files is taken for a subject of its own, as names"
            f" such as {unnamed[0]!r} have no underscore; if one person has several,"
            " pass subject_of, a function of the Path that returns the subject",
            stacklevel=2,
        )
    _check_same_channels(recordings)
    return BaseConcatDataset(recordings)


def _check_crop(crop: Any) -> None:
    if crop is None:
        return
    accepted = "crop must be (tmin, tmax), each a number of seconds or None"
    is_pair = isinstance(crop, (tuple, list, np.ndarray)) and len(crop) == 2
    if not is_pair or not all(t is None or isinstance(t, Real) for t in crop):
        raise TypeError(f"{accepted}, got {crop!r}")
    tmin, tmax = (0.0 if crop[0] is None else crop[0]), crop[1]
    is_ordered = 0 <= tmin < (math.inf if tmax is None else tmax)
    if not is_ordered or tmax == math.inf:
        raise ValueError(
            f"{accepted}, with 0 <= tmin < tmax and both finite, got {crop!r}"
        )


def _subject_in_name(path: Path) -> str:
    first, underscore, _ = path.name.partition("_")
    return first if underscore else path.stem.removesuffix(".fif")  # of .fif.gz


def _read(
    path: Path,
    picks: str | list[str] | None,
    sfreq: float | None,
    crop: Crop,
    left_out: set[str],
) -> mne.io.BaseRaw:
    """Read one recording in microvolts, with no more memory than it needs."""
    if path.stat().st_size == 0:
        raise ValueError("the file is empty")
    header = read_header(path)
    check_complete(path, header)
    # MNE resamples slower signals to the rate of the fastest. It has to do so before
    # cropping, or it would stretch them over the part.
    is_whole = crop is not None and has_several_rates(path, header)
    raw = mne.io.read_raw(path, preload=is_whole, verbose="warning")
    chosen = input_channels(raw.info) if picks is None else picks
    if picks is None:
        left_out |= {n for i, n in enumerate(raw.ch_names) if i not in chosen}
    raw.pick(chosen, verbose="error")
    if crop is not None:
        _crop(raw, *crop)
    raw.load_data(verbose="warning")
    for i, name in enumerate(raw.ch_names):
        if not np.isfinite(raw.get_data([i])).all():
            raise ValueError(f"channel {name!r} holds NaN or infinite values")
    if sfreq is not None and raw.info["sfreq"] != sfreq:
        raw.resample(sfreq, verbose="error")
    volts = in_volts(raw.info)
    if volts:
        raw.apply_function(lambda x: MICROVOLTS * x, picks=volts, verbose="error")
    return raw


def _crop(raw: mne.io.BaseRaw, tmin: float | None, tmax: float | None) -> None:
    sfreq, n_times = raw.info["sfreq"], raw.n_times
    length = n_times / sfreq
    start = 0 if tmin is None else round(min(tmin * sfreq, n_times))
    stop = n_times if tmax is None else round(min(tmax * sfreq, n_times + 1))
    if start >= n_times or stop > n_times:
        where = f"begins at {tmin}" if start >= n_times else f"ends at {tmax}"
        raise ValueError(f"crop {where} s, but the recording is {length:g} s long")
    if start == stop:
        raise ValueError(
            f"crop from {tmin} s to {tmax} s holds no sample at {sfreq:g} Hz"
        )
    # MNE would keep an annotation at the end, and the rest of one that began before.
    # Onsets count from the date of the measurement, or as if there were one.
    begins = np.round((raw.annotations.onset - raw.first_time) * sfreq)
    raw.annotations.delete((begins < start) | (begins >= stop))
    # By the last sample: rounding could put the end behind that of the recording, where
    # MNE raises.
    raw.crop(start / sfreq, (stop - 1) / sfreq, verbose="error")


def _check_same_channels(recordings: list[RawDataset]) -> None:
    first = recordings[0]
    for other in recordings[1:]:
        for what in ("ch_names", "sfreq"):
            expected, found = first.raw.info[what], other.raw.info[what]
            if found != expected:
                raise ValueError(
                    f"recordings must have the same {what}, got {found} in"
                    f" {other.description['path']} and {expected} in"
                    f" {first.description['path']}; select common channels with picks,"
                    " or a common sampling frequency with sfreq"
                )
