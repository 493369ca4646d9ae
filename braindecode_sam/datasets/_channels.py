"""Channels that are inputs of a model, and their unit."""

from __future__ import annotations

import mne

MICROVOLTS = 1e6

_IN_VOLTS = {"eeg", "eog", "ecg", "emg", "seeg", "ecog", "dbs", "bio"}
# Triggers hold the labels. The others are not signals of the body, or have no known
# unit.
_NO_INPUT = {"stim", "misc", "syst", "exci", "ias", "chpi", "temperature", "gsr"}


def input_channels(info: mne.Info) -> list[int]:
    """Return the indices of channels that may be inputs of a model, by their type."""
    kinds = info.get_channel_types()
    picks = [i for i, kind in enumerate(kinds) if kind not in _NO_INPUT]
    if not picks:  # "misc" is MNE's default
        picks = [i for i, kind in enumerate(kinds) if kind == "misc"]
    if not picks:
        raise ValueError(
            "no channel is an input of a model, as all are of the types"
            f" {sorted(set(kinds))}; set their types, such as raw.set_channel_types("
            f"{{{info['ch_names'][0]!r}: 'eeg'}})"
        )
    return picks


def in_volts(info: mne.Info) -> list[int]:
    """Return the indices of channels whose unit is volts."""
    return [i for i, k in enumerate(info.get_channel_types()) if k in _IN_VOLTS]
