"""Recordings in any format, checked and converted to microvolts."""

from __future__ import annotations

import math
import os
import re
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
from braindecode_sam.datasets.arrays import MICROVOLTS

Crop = tuple[float | None, float | None] | None

MAX_SIGNALS = 9999  # in an EDF file, whose header counts them in four characters


def read_recordings(
    paths: str | os.PathLike[str] | Iterable[Any],
    *,
    participants: pd.DataFrame | str | os.PathLike[str] | None = None,
    subject_of: Callable[[Path], Any] | None = None,
    picks: str | list[str] | None = None,
    sfreq: float | None = None,
    crop: tuple[float | None, float | None] | None = None,
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
        to ``sub-01``.
    picks : str or list of str, optional
        Channels to keep, as in MNE, by default all.
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
        `crop` requires, or hold values that are not finite in the part to keep.

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
        If a file is bad, a subject is not in the table, channels differ between
        recordings, no recording is left, or `crop` is not in ascending order.

    See Also
    --------
    subject_target_windows : Cut windows with a target of the subject.
    response_time_windows : Cut windows with response times.

    Notes
    -----
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
    table = None if participants is None else _read_table(participants)
    subjects = [(subject_of or _subject_in_name)(path) for path in paths]
    descriptions = [
        {"subject": subject, "path": str(path), **_row_of(table, subject, path)}
        for subject, path in zip(subjects, paths, strict=True)
    ]
    raws = _read_all(paths, crop, on_bad)
    recordings = [
        RawDataset(_prepare(raw, picks, sfreq), description)
        for raw, description in zip(raws, descriptions, strict=True)
        if raw is not None
    ]
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


def _read_table(participants: pd.DataFrame | str | os.PathLike[str]) -> pd.DataFrame:
    if not isinstance(participants, pd.DataFrame):
        separator = "\t" if str(participants).endswith(".tsv") else ","
        first = pd.read_csv(participants, sep=separator, nrows=0).columns[0]
        participants = pd.read_csv(participants, sep=separator, dtype={first: str})
    names = participants.columns[0]
    reserved = {"subject", "path"} & set(participants.columns[1:])
    if reserved:
        raise ValueError(
            f"participants must not have a column named {reserved.pop()!r}, which is"
            " reserved for recordings; rename the column"
        )
    table = participants.dropna(subset=[names])
    table = table.astype({names: str}).set_index(names)
    repeated = table.index[table.index.duplicated()]
    if len(repeated):
        raise ValueError(
            f"participants must have one row for each subject, named in its first"
            f" column {names!r}, got several for {repeated[0]!r}"
        )
    return table


def _subject_in_name(path: Path) -> str:
    return re.split("[_.]", path.name, maxsplit=1)[0]


def _row_of(table: pd.DataFrame | None, subject: str, path: Path) -> dict[str, Any]:
    if table is None:
        return {}
    if str(subject) not in table.index:
        raise ValueError(
            f"participants has no row for {subject!r} (of {path}); it has"
            f" {', '.join(table.index[:5])}{', ...' if len(table) > 5 else ''}"
        )
    return table.loc[str(subject)].to_dict()


def _read_all(
    paths: list[Path], crop: Crop, on_bad: str
) -> list[mne.io.BaseRaw | None]:
    raws, bad = [], []
    for path in paths:
        try:
            raws.append(_read_one(path, crop))
        # MNE's readers raise errors of many types.
        except Exception as error:
            raws.append(None)
            bad.append(f"{path}: {error}")
    if bad:
        message = "cannot read " + "; ".join(bad)
        if on_bad == "raise" or len(bad) == len(paths):
            raise ValueError(message)
        warnings.warn(f"skipped recordings: {message}", stacklevel=3)
    if not raws:
        raise ValueError(f"paths must name at least one recording, got {paths!r}")
    return raws


def _read_one(path: Path, crop: Crop) -> mne.io.BaseRaw:
    size = path.stat().st_size
    if size == 0:
        raise ValueError("the file is empty")
    raw = mne.io.read_raw(path, verbose="error")
    if path.suffix.lower() == ".edf":
        _check_complete(path, size)
    if crop is not None:
        _crop(raw, *crop)
    raw.load_data(verbose="error")  # after cropping, to read the part to keep only
    if not np.isfinite(raw.get_data()).all():
        raise ValueError("the recording holds NaN or infinite values")
    return raw


def _check_complete(path: Path, size: int) -> None:
    """Compare the size of an EDF file with its header, which MNE does not."""
    with path.open("rb") as file:
        header = file.read(256 * (1 + MAX_SIGNALS))
    header_bytes, n_records = int(header[184:192]), int(header[236:244])
    n_signals = int(header[252:256])
    start = 256 + n_signals * 216
    lengths = [int(header[start + 8 * i :][:8]) for i in range(n_signals)]
    expected = header_bytes + 2 * sum(lengths) * n_records  # two bytes per sample
    if size < expected:  # n_records is -1 in an unfinished recording
        raise ValueError(f"the file is truncated: it has {size} of {expected} bytes")


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


def _prepare(
    raw: mne.io.BaseRaw, picks: str | list[str] | None, sfreq: float | None
) -> mne.io.BaseRaw:
    if picks is not None:
        raw.pick(picks, verbose="error")
    if sfreq is not None and raw.info["sfreq"] != sfreq:
        raw.resample(sfreq, verbose="error")
    kinds = ("eeg", "eog", "ecg", "emg", "seeg", "ecog", "dbs", "bio")
    types = zip(raw.ch_names, raw.get_channel_types(), strict=True)
    volts = [name for name, kind in types if kind in kinds]
    if not volts:
        return raw
    return raw.apply_function(
        lambda x: MICROVOLTS * x, picks=volts, channel_wise=False, verbose="error"
    )


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
