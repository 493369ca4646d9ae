"""Simulated EEG for regression of response times across subjects."""

from __future__ import annotations

import mne
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.utils import check_random_state

from braindecode_sam._arguments import check_positive

_Floats = NDArray[np.float64]

MONTAGE = "GSN-HydroCel-129"
BACKGROUND = 10e-6  # V, standard deviation
EVOKED = 25e-6  # V, at the peak
ALPHA = 10e-6  # V, mean amplitude of a subject's rhythm
CORRELATION_LENGTH = 0.05  # m, on a head of about 0.1 m radius


def simulate_response_times(
    n_subjects: int = 12,
    n_trials: int = 30,
    n_chans: int = 72,
    n_times: int = 500,
    sfreq: float = 125.0,
    random_state: int | np.random.RandomState | None = None,
) -> mne.EpochsArray:
    """Simulate trials of a visual task with response times.

    Every trial is the sum of a 1/f background, correlated between neighboring
    electrodes, of an evoked response over the vertex that peaks at the response time,
    and of an alpha rhythm. Subjects differ in their mean response time and in the
    frequency and topography of their alpha rhythm. A model can learn the latency of the
    evoked response, which generalizes to new subjects. If the same subjects are in
    training and test data, a model can also recognize the subject, which inflates its
    score.

    Parameters
    ----------
    n_subjects : int, default=12
        Number of subjects.
    n_trials : int, default=30
        Number of trials of each subject.
    n_chans : int, default=72
        Number of electrodes, spread evenly over the 129 of a GSN HydroCel net.
    n_times : int, default=500
        Number of samples in a trial, which begins at the stimulus.
    sfreq : float, default=125.0
        Sampling frequency in Hz.
    random_state : int, numpy.random.RandomState or None, default=None
        Seed.

    Returns
    -------
    epochs : mne.Epochs
        ``n_subjects * n_trials`` epochs in volts, with the metadata columns ``subject``
        (str) and ``response_time`` (s).

    Raises
    ------
    ValueError
        If a number is not positive, or `n_chans` exceeds 129.

    See Also
    --------
    to_arrays : Convert the epochs to arrays for ``cross_validate``.

    Examples
    --------
    >>> from braindecode_sam.datasets import simulate_response_times
    >>> epochs = simulate_response_times(2, 3, n_chans=8, n_times=250, random_state=0)
    >>> epochs.get_data(copy=False).shape
    (6, 8, 250)
    >>> list(epochs.metadata.columns)
    ['subject', 'response_time']
    """
    sizes = {"n_subjects": n_subjects, "n_trials": n_trials, "n_times": n_times}
    for name, value in {**sizes, "n_chans": n_chans, "sfreq": sfreq}.items():
        check_positive(name, value)
    rng = check_random_state(random_state)
    info = _make_info(n_chans, sfreq)
    positions = np.array([ch["loc"][:3] for ch in info["chs"]])
    subjects = [
        _simulate_subject(n_trials, n_times, sfreq, positions, rng)
        for _ in range(n_subjects)
    ]
    trials, times = map(np.concatenate, zip(*subjects, strict=True))
    names = np.repeat([f"sub-{i + 1:03d}" for i in range(n_subjects)], n_trials)
    metadata = pd.DataFrame({"subject": names, "response_time": times})
    return mne.EpochsArray(trials, info, metadata=metadata, verbose="error")


def _make_info(n_chans: int, sfreq: float) -> mne.Info:
    montage = mne.channels.make_standard_montage(MONTAGE)
    if n_chans > len(montage.ch_names):
        raise ValueError(
            f"n_chans must be at most {len(montage.ch_names)}, the number of electrodes"
            f" of {MONTAGE}, got {n_chans!r}"
        )
    positions = montage.get_positions()["ch_pos"]
    names = list(positions)
    chosen = sorted(_spread(np.array(list(positions.values())), n_chans))
    info = mne.create_info([names[i] for i in chosen], sfreq, "eeg")
    return info.set_montage(montage)


def _spread(positions: _Floats, n: int) -> list[int]:
    """Pick points one by one, each the farthest from those already picked."""
    chosen = [int(positions[:, 2].argmax())]
    distance = np.linalg.norm(positions - positions[chosen[0]], axis=1)
    while len(chosen) < n:
        chosen.append(int(distance.argmax()))
        new = np.linalg.norm(positions - positions[chosen[-1]], axis=1)
        distance = np.minimum(distance, new)
    return chosen


def _simulate_subject(
    n_trials: int,
    n_times: int,
    sfreq: float,
    positions: _Floats,
    rng: np.random.RandomState,
) -> tuple[_Floats, _Floats]:
    duration = n_times / sfreq
    times = np.arange(n_times) / sfreq
    pace = 0.45 * np.exp(0.2 * rng.standard_normal())
    responses = pace * np.exp(0.25 * rng.standard_normal(n_trials))
    responses = responses.clip(0.1 * duration, 0.9 * duration).clip(max=2.0)
    trials = _background(n_trials, n_times, positions, rng)
    trials += _evoked(responses, times, positions)
    trials += _alpha(n_trials, times, positions, rng)
    return trials, responses


def _background(
    n_trials: int, n_times: int, positions: _Floats, rng: np.random.RandomState
) -> _Floats:
    spectrum = np.fft.rfft(rng.standard_normal((n_trials, len(positions), n_times)))
    spectrum[..., 1:] /= np.sqrt(np.arange(1, spectrum.shape[-1]))  # power ~ 1/f
    spectrum[..., 0] = 0
    noise = np.fft.irfft(spectrum, n=n_times)
    distance = np.linalg.norm(positions[:, None] - positions, axis=-1)
    covariance = np.exp(-((distance / CORRELATION_LENGTH) ** 2) / 2)
    mixing = np.linalg.cholesky(covariance + 1e-3 * np.eye(len(positions)))
    return BACKGROUND * (mixing @ (noise / noise.std()))


def _evoked(responses: _Floats, times: _Floats, positions: _Floats) -> _Floats:
    vertex = positions[positions[:, 2].argmax()]
    topography = _bump(np.linalg.norm(positions - vertex, axis=1), 0.06)
    courses = _bump(times - responses[:, None], 0.08)
    return EVOKED * topography[:, None] * courses[:, None, :]


def _alpha(
    n_trials: int, times: _Floats, positions: _Floats, rng: np.random.RandomState
) -> _Floats:
    center = positions[rng.randint(len(positions))]
    topography = _bump(np.linalg.norm(positions - center, axis=1), 0.04)
    phases = rng.uniform(0, 2 * np.pi, (n_trials, 1))
    courses = np.sin(2 * np.pi * rng.uniform(8, 12) * times + phases)
    return ALPHA * rng.uniform(0.5, 1.5) * topography[:, None] * courses[:, None, :]


def _bump(x: _Floats, width: float) -> _Floats:
    return np.exp(-((x / width) ** 2) / 2)
