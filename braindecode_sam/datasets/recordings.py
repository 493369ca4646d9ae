"""Recordings in any format, checked, in microvolts."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import mne
import numpy as np
import pandas as pd
from braindecode.datasets import BaseConcatDataset, RawDataset

from braindecode_sam._arguments import check_choice, check_positive
from braindecode_sam.datasets.arrays import MICROVOLTS

MAX_SIGNALS = 9999  # of an EDF file: the header counts them in four characters


def read_recordings(
    paths: str | os.PathLike[str] | Iterable[Any],
    *,
    participants: pd.DataFrame | str | os.PathLike[str] | None = None,
    subject_of: Callable[[Path], Any] | None = None,
    picks: str | list[str] | None = None,
    sfreq: float | None = None,
    on_bad: str = "raise",
) -> BaseConcatDataset:
    """Read recordings in any format that MNE reads.

    Parameters
    ----------
    paths : path-like or iterable of path-like
        Files, or one. All must have the same channels after `picks`.
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
    if isinstance(paths, (str, os.PathLike)):
        paths = [paths]
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


def _read_table(participants: pd.DataFrame | str | os.PathLike[str]) -> pd.DataFrame:
    if not isinstance(participants, pd.DataFrame):
        separator = "\t" if str(participants).endswith(".tsv") else ","
        first = pd.read_csv(participants, sep=separator, nrows=0).columns[0]
        participants = pd.read_csv(participants, sep=separator, dtype={first: str})
    names = participants.columns[0]
    own = {"subject", "path"} & set(participants.columns[1:])
    if own:
        raise ValueError(
            f"participants has a column {own.pop()!r}, a name that recordings use"
            " themselves; expected another name"
        )
    table = participants.dropna(subset=[names])
    table = table.astype({names: str}).set_index(names)
    repeated = table.index[table.index.duplicated()]
    if len(repeated):
        raise ValueError(
            f"participants has several rows for {repeated[0]!r}; expected one for each"
            f" subject, named in the first column, {names!r}"
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


def _read_all(paths: list[Path], on_bad: str) -> list[mne.io.BaseRaw | None]:
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


def _read_one(path: Path) -> mne.io.BaseRaw:
    size = path.stat().st_size
    if size == 0:
        raise ValueError("the file is empty")
    raw = mne.io.read_raw(path, preload=True, verbose="error")
    if path.suffix.lower() == ".edf":
        _check_complete(path, size)
    if not np.isfinite(raw.get_data()).all():
        raise ValueError("the recording holds NaN or infinite values")
    return raw


def _check_complete(path: Path, size: int) -> None:
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


def _prepare(
    raw: mne.io.BaseRaw, picks: str | list[str] | None, sfreq: float | None
) -> mne.io.BaseRaw:
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


def _check_same_channels(recordings: list[RawDataset]) -> None:
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
