"""Recordings of PhysioNet's "EEG During Mental Arithmetic Tasks"."""

import mne

from braindecode_sam.datasets import read_recordings, subject_target_windows, to_arrays


def read_subtractions(folder, pattern, sfreq, on_bad="raise"):
    """Return windows, numbers of subtractions per minute and subjects.

    Parameters
    ----------
    folder : pathlib.Path
        Folder with the EDF files and ``subject-info.csv``.
    pattern : str
        Pattern of the file names. ``"Subject*_1.edf"`` are recordings at rest,
        ``"Subject*_2.edf"`` those during the subtractions.
    sfreq : float
        Sampling frequency in Hz of the 19 EEG channels' windows of 4 s.
    on_bad : {"raise", "warn"}, default="raise"
        Whether to raise or to warn if a file cannot be read.

    Raises
    ------
    FileNotFoundError
        If no file matches the pattern.
    """
    files = sorted(folder.glob(pattern))
    if not files:
        raise FileNotFoundError(f"{folder} holds no file named like {pattern}")
    names = mne.io.read_raw(files[0], verbose="error").ch_names
    picks = [n for n in names if n.startswith("EEG ") and n != "EEG A2-A1"]
    table = folder / "subject-info.csv"
    recordings = read_recordings(
        files, participants=table, picks=picks, sfreq=sfreq, on_bad=on_bad
    )
    return to_arrays(subject_target_windows(recordings, "Number of subtractions"))
