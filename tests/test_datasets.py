"""Simulated and real recordings, and their conversion to arrays."""

import logging
import math
import re
from pathlib import Path

import mne
import numpy as np
import pandas as pd
import pytest
import torch
from braindecode import EEGRegressor
from braindecode.datasets import BaseConcatDataset, RawDataset, create_from_X_y
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from braindecode_sam import SAM
from braindecode_sam.datasets import (
    SubjectWindows,
    read_recordings,
    response_time_windows,
    simulate_response_times,
    subject_target_windows,
    to_arrays,
)
from braindecode_sam.datasets.windows import response_times
from braindecode_sam.model_selection import subjects_of


def refused(message):
    return pytest.raises(ValueError, match=message)


# Simulation


def test_simulation_is_what_it_says_and_reproducible():
    epochs = simulate_response_times(3, 4, n_chans=16, n_times=300, random_state=1)
    again = simulate_response_times(3, 4, n_chans=16, n_times=300, random_state=1)
    assert epochs.get_data(copy=False).shape == (12, 16, 300)
    np.testing.assert_array_equal(epochs.get_data(), again.get_data())
    assert epochs.metadata["subject"].tolist() == [
        f"sub-{i:03d}" for i in (1, 2, 3) for _ in range(4)
    ]
    assert epochs.get_montage() is not None
    assert 5e-6 < epochs.get_data().std() < 30e-6
    times = epochs.metadata["response_time"]
    assert times.between(0.1 * 300 / 125, 2.0).all()


def test_background_is_one_over_f():
    epochs = simulate_response_times(4, 10, n_chans=8, n_times=1000, random_state=0)
    psd = epochs.compute_psd(fmin=15, fmax=50, verbose="error")
    power, f = psd.get_data(return_freqs=True)
    slope = np.polyfit(np.log(f), np.log(power.mean((0, 1))), 1)[0]
    assert -1.3 < slope < -0.7


def test_simulation_refuses():
    for options, message in (
        ({"n_subjects": 0}, "n_subjects must be a finite number > 0, got 0"),
        ({"sfreq": -1.0}, "sfreq must be a finite number > 0, got -1.0"),
        ({"n_chans": 200}, "n_chans must be at most 129.*got 200"),
    ):
        with refused(message):
            simulate_response_times(**{"n_subjects": 2, "n_trials": 2, **options})


# Arrays


def test_an_array_that_needs_no_copy_is_not_copied():
    X = np.random.default_rng(0).normal(size=(6, 3, 50)).astype(np.float32)
    found, y, groups = to_arrays(X, [1, 2, 3, 4, 5, 6], list("aabbcc"))
    assert found is X
    assert y.dtype == np.float32
    assert groups.tolist() == list("aabbcc")
    assert to_arrays(X.astype(float), y, groups)[0].dtype == np.float32


GROUPS = {
    "string": (pd.Series(["a", "bcd"], dtype="string"), "<U3"),
    "object": (np.array(["a", np.str_("bcd")], dtype=object), "<U3"),
    "StringDType": (np.array(["a", "bcd"], dtype=np.dtypes.StringDType()), "<U3"),
    "category of int": (pd.Series([7, 8], dtype="category"), "<i8"),
    "int": (np.array([7, np.int32(8)], dtype=object), "<i8"),
}


@pytest.mark.parametrize("name", GROUPS)
def test_groups_are_never_objects(name, tmp_path):
    names, dtype = GROUPS[name]
    X, y = np.zeros((2, 1, 200)), [0.5, 0.7]
    epochs = simulate_response_times(2, 1, n_chans=1, n_times=200, random_state=0)
    epochs.metadata = pd.DataFrame({"subject": names, "target": y})
    windows = SubjectWindows(X, names)
    found = [
        windows.groups,
        windows[:1].groups,
        windows[[1, 0]].groups[::-1],
        subjects_of(windows),
        subjects_of(torch.utils.data.Subset(windows, [0, 1])),
        to_arrays(X, y, names)[2],
        to_arrays(epochs)[2],
    ]
    for groups in found:
        assert groups.dtype.kind in "Ui"
        assert groups.dtype == dtype
        assert groups.tolist() == list(names)[: len(groups)]
        np.savez(tmp_path / "groups.npz", groups=groups)
        with np.load(tmp_path / "groups.npz") as stored:
            np.testing.assert_array_equal(stored["groups"], groups)


@pytest.mark.filterwarnings("ignore:.*drop_last_window.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning:braindecode")
def test_groups_of_datasets_are_never_objects():
    X = np.ones((4, 1, 200), dtype=np.float32)
    windows = create_from_X_y(X, np.arange(4.0), drop_last_window=False, sfreq=100)
    for part, subject in zip(windows.datasets, ["a", "a", "bcd", "e"], strict=True):
        part.set_description({"subject": subject})
    for groups in (to_arrays(windows)[2], subjects_of(windows)):
        assert groups.dtype == "<U3"
        assert groups.tolist() == ["a", "a", "bcd", "e"]


# Labels


def test_labels_may_be_text():
    X, groups, labels = np.zeros((3, 1, 200)), [1, 2, 3], ["left", "right", "no"]
    epochs = simulate_response_times(3, 1, n_chans=1, n_times=200, random_state=0)
    for values in (
        labels,
        pd.Series(labels, dtype="category"),
        np.array(labels, dtype=np.dtypes.StringDType()),
    ):
        epochs.metadata["label"] = list(values)
        for y in (
            to_arrays(X, values, groups)[1],
            to_arrays(epochs, target="label")[1],
            to_arrays(epochs, values)[1],
        ):
            assert y.dtype == "<U5"
            assert y.tolist() == labels
    assert to_arrays(X, ["0.5", "0.7", "0.9"], groups)[1].dtype == "<U3"
    assert to_arrays(X, [True, False, True], groups)[1].dtype == np.float32


def test_labels_are_refused():
    for y, message in (
        (["a", "b", np.nan], "y must name a label for every window, got nan.* 2"),
        (pd.Series(["a", None, "b"], dtype="string"), "got <NA> for window 1"),
        (["left"] * 3, r"y is constant \('left' in all 3 windows\)"),
        (
            [["a"], ["b"], ["a"]],
            r"y must have the shape \(n_windows,\), got .*\(3, 1\)",
        ),
        (["a", 0.5, "b"], "y must .* be all text or all numbers, got 0.5 for window 1"),
        ([0.5, 0.7, "0.6"], "all text or all numbers, got '0.6' for window 2"),
        ([["a", "b"], ["a"], ["b"]], "y must hold numbers"),
        ([0.5, None, 0.7], "y must be finite, got .?nan.? for window 1"),
        ([16777216, 16777217, 5], "float32 represents exactly.*got 16777217"),
    ):
        with refused(message):
            to_arrays(np.zeros((3, 1, 200)), y, ["a", "b", "c"])


def test_epochs_come_in_microvolts_and_eight_targets():
    epochs = simulate_response_times(2, 3, n_chans=4, n_times=250, random_state=0)
    names = [f"target_{i}" for i in range(8)]
    for i, name in enumerate(names):
        epochs.metadata[name] = np.arange(6) + i
    X, y, groups = to_arrays(epochs, target=names)
    np.testing.assert_allclose(X, 1e6 * epochs.get_data(), rtol=1e-6)
    assert y.shape == (6, 8)
    assert groups[0] == "sub-001"


def test_epochs_and_arrays_need_targets_and_groups():
    epochs = simulate_response_times(2, 3, n_chans=4, n_times=250, random_state=0)
    with refused(r"target must name columns among .*got 'target'"):
        to_arrays(epochs)
    with refused("got 'who'"):
        to_arrays(epochs, target="response_time", subject="who")
    epochs._data[2, 0, 5] = np.nan
    with refused("window 2 holds NaN"):
        to_arrays(epochs, target="response_time")
    X = np.zeros((2, 1, 9), dtype=np.float32)
    with refused(r"y must be given.*got None"):
        to_arrays(X)
    with refused(r"groups must be given.*got None"):
        to_arrays(X, [1, 2])
    with refused("got X: 2, y: 2, groups: 1"):
        to_arrays(X, [1, 2], ["a"])


@given(
    X=arrays(np.float32, (7, 2, 3), elements=st.floats(-9, 9, width=32)),
    rows=st.one_of(
        st.lists(st.integers(-7, 6)),
        st.lists(st.booleans(), min_size=7, max_size=7),
        st.slices(7),
    ),
)
def test_subject_windows_index_as_arrays_do(X, rows):
    groups = np.arange(7)
    key = rows if isinstance(rows, slice) else np.array(rows, dtype=int)
    if isinstance(rows, list) and rows and isinstance(rows[0], bool):
        key = np.array(rows)
    windows = SubjectWindows(X, groups)
    for taken in (windows[key], windows[key, ...]):
        np.testing.assert_array_equal(np.asarray(taken), X[key])
        np.testing.assert_array_equal(taken.groups, groups[key])
        assert taken.shape == X[key].shape
        assert len(taken) == len(X[key])
    assert (windows.ndim, windows.dtype) == (3, np.float32)
    np.testing.assert_array_equal(windows[:, 0], X[:, 0])
    assert "7 subjects" in repr(windows)


def test_subject_windows_make_no_copy_except_of_what_cannot_be_written():
    X = np.zeros((4, 2, 5))
    assert np.shares_memory(SubjectWindows(X, list("abcd"))[1:3][0], X)
    X.flags.writeable = False
    assert SubjectWindows(X, list("aabb"))[[1, 2]][0].flags.writeable
    with refused("got X: 4, groups: 3"):
        SubjectWindows(X, list("abc"))
    info = mne.create_info(2, 100.0, "eeg")
    epochs = mne.EpochsArray(np.zeros((3, 2, 50)), info, verbose="error")
    with pytest.raises(TypeError, match="got EpochsArray, which holds volts"):
        SubjectWindows(epochs, ["a", "a", "b"])


# Response times


@given(
    st.lists(st.tuples(st.floats(0, 100), st.booleans()), unique_by=lambda e: e[0]),
)
def test_response_times_by_walking_through_the_events(events):
    events = sorted(events)
    expected = []
    for i, (onset, is_stimulus) in enumerate(events):
        if is_stimulus:
            answered = i + 1 < len(events) and not events[i + 1][1]
            expected.append(events[i + 1][0] - onset if answered else math.nan)
    onsets = np.array([t for t, is_stimulus in events if is_stimulus])
    responses = np.array([t for t, is_stimulus in events if not is_stimulus])
    np.testing.assert_array_equal(response_times(onsets, responses), expected)


def make_raw(events, seconds=20.0, sfreq=100.0, first_samp=0, meas_date=None):
    rng = np.random.default_rng(0)
    data = 1e-5 * rng.normal(size=(3, round(seconds * sfreq)))
    info = mne.create_info(["Cz", "Pz", "Oz"], sfreq, "eeg")
    raw = mne.io.RawArray(data, info, first_samp=first_samp, verbose="error")
    if meas_date is not None:
        raw.set_meas_date(meas_date)
    onsets, names = zip(*events, strict=True)
    offset = raw.first_time if meas_date is not None else 0
    annotations = mne.Annotations(
        np.array(onsets) + offset, 0, names, orig_time=raw.info["meas_date"]
    )
    return raw.set_annotations(annotations)


EVENTS = [(1, "go"), (1.5, "hit"), (1.7, "hit"), (5, "go"), (8, "go"), (11, "hit")]
EVENTS += [(14, "go"), (14.05, "hit"), (19.5, "go"), (19.8, "hit")]


@pytest.mark.parametrize(
    "shift", [{}, {"first_samp": 500}, {"first_samp": 500, "meas_date": 1e9}]
)
def test_response_time_windows(shift, caplog):
    """MNE counts onsets from the beginning before cropping, also without a date."""
    raw = make_raw(EVENTS, **shift)
    recordings = BaseConcatDataset([RawDataset(raw, {"subject": "a", "path": "a.edf"})])
    caplog.set_level(logging.INFO, logger="braindecode_sam")
    windows = response_time_windows(
        recordings, stimulus="go", response="hit", window_seconds=2.0,
        offset_seconds=-0.5, limits=(0.1, 4.0),
    )  # fmt: skip
    assert [float(y[0]) for _, y, _ in windows] == pytest.approx([0.5, 3.0])
    for window, start in zip(windows, (50, 750), strict=True):
        expected = raw.get_data(start=start, stop=start + 200)
        np.testing.assert_allclose(window[0], expected, rtol=1e-6)
    assert windows[0][1].shape == (1,)
    assert (
        "kept 2 of 5 trials; left out 1 without a response, 1 with a response time"
        " outside of (0.1, 4.0) s, 1 with a window beyond the recording, 0 across a cut"
    ) in caplog.text


def test_several_names_of_stimuli_and_responses():
    events = [(1, "left"), (1.5, "hit left"), (3, "right"), (3.25, "hit right")]
    recordings = BaseConcatDataset([RawDataset(make_raw(events), {"subject": "a"})])
    windows = response_time_windows(
        recordings, stimulus=["left", "right"], response=["hit left", "hit right"],
        window_seconds=2.0,
    )  # fmt: skip
    assert [float(window[1][0]) for window in windows] == pytest.approx([0.5, 0.25])
    with refused(r"names? events.*got \['up', 'down'\]"):
        response_time_windows(
            recordings, stimulus=["up", "down"], response="hit left", window_seconds=2.0
        )


def test_response_time_windows_refuses():
    recordings = BaseConcatDataset([RawDataset(make_raw(EVENTS), {"subject": "a"})])
    given = {"stimulus": "go", "response": "hit", "window_seconds": 1.0}
    for options, message in (
        ({"stimulus": "stop"}, r"stimulus must name events.*'stop'.*\['go', 'hit'\]"),
        ({"response": "miss"}, "response must name events.*'miss', but recording a"),
        ({"window_seconds": 0}, "window_seconds must be a finite number > 0, got 0"),
        ({"limits": (2.0, 1.0)}, r"limits must be.*got \(2.0, 1.0\)"),
        ({"limits": (6.0, 9.0)}, "no trial is left.*response time within limits"),
    ):
        with refused(message):
            response_time_windows(recordings, **(given | options))


# Real recordings


def eegmat_files(folder, n=None):
    return sorted(folder.glob("Subject*_2.edf"))[:n]


def eegmat_channels(file):
    names = mne.io.read_raw(file, verbose="error").ch_names
    return [n for n in names if n.startswith("EEG ") and n != "EEG A2-A1"]


def test_eegmat_from_edf_files_to_predictions(eegmat):
    files = eegmat_files(eegmat, 4)
    recordings = read_recordings(
        files, participants=eegmat / "subject-info.csv",
        picks=eegmat_channels(files[0]), sfreq=125,
    )  # fmt: skip
    windows = subject_target_windows(recordings, "Number of subtractions")
    X, y, groups = to_arrays(windows)
    assert X.shape[1:] == (19, 500)
    table = pd.read_csv(eegmat / "subject-info.csv").set_index("Subject")
    for subject in np.unique(groups):
        expected = table.loc[subject, "Number of subtractions"]
        assert y[groups == subject] == pytest.approx(expected)
    assert 1 < X.std() < 50  # microvolts
    raw = mne.io.read_raw(files[3], preload=True, verbose="error")
    raw.pick(eegmat_channels(files[3])).resample(125, verbose="error")
    third = 1e6 * raw.get_data(start=1000, stop=1500)
    np.testing.assert_allclose(X[groups == "Subject03"][2], third, rtol=1e-5, atol=1e-4)
    whole, part = (
        read_recordings(files[0], picks=["EEG Cz"], crop=crop).datasets[0].raw
        for crop in (None, (10, 30))
    )
    np.testing.assert_array_equal(part.get_data(), whole.get_data(None, 5000, 15000))
    net = EEGRegressor(
        "EEGNet", optimizer=SAM, max_epochs=1, batch_size=20, train_split=None,
        verbose=0,
    )  # fmt: skip
    net.fit(windows, y=None)
    assert net.predict(windows).shape == (len(X), 1)


def test_eeglab_response_times_are_those_of_the_events(eeglab, caplog):
    """Recounted from the file: 6 of the 80 squares see the next one before a press."""
    caplog.set_level(logging.INFO, logger="braindecode_sam")
    recordings = read_recordings([eeglab], subject_of=lambda path: "one")
    windows = response_time_windows(
        recordings, stimulus="square", response="rt", window_seconds=1.0
    )
    annotations = mne.io.read_raw(eeglab, verbose="error").annotations
    expected, waiting = [], None
    for onset, name in zip(annotations.onset, annotations.description, strict=True):
        if name == "square":
            waiting = onset
        elif waiting is not None:
            expected.append(onset - waiting)
            waiting = None
    X, y, groups = to_arrays(windows)
    np.testing.assert_allclose(y, expected, rtol=1e-5)
    assert X.shape == (74, 32, 128)
    assert set(groups) == {"one"}
    assert np.median(y) == pytest.approx(0.406, abs=1e-3)
    assert y.max() < 1.1
    assert "kept 74 of 80 trials; left out 6 without a response" in caplog.text


# Bad recordings


@pytest.fixture
def edf_folder(eegmat, tmp_path):
    """Three good recordings and four bad ones."""
    for file in eegmat_files(eegmat, 3):
        (tmp_path / file.name).symlink_to(file)
    whole = eegmat_files(eegmat)[3].read_bytes()
    (tmp_path / "empty_2.edf").write_bytes(b"")
    (tmp_path / "header_2.edf").write_bytes(whole[:3000])
    (tmp_path / "half_2.edf").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text_2.edf").write_bytes(b"not an EDF file" * 1000)
    return tmp_path


@pytest.mark.filterwarnings("ignore:Invalid measurement date:RuntimeWarning")
def test_bad_files_are_all_named_and_do_not_affect_the_others(edf_folder):
    files = sorted(edf_folder.iterdir())
    with refused("cannot read") as error:
        read_recordings(files)
    message = str(error.value)
    assert "empty_2.edf: the file is empty" in message
    assert "half_2.edf: the file is truncated: " in message
    assert "header_2.edf: " in message
    assert "text_2.edf: " in message
    assert "Subject00_2.edf" not in message
    with pytest.warns(UserWarning, match="skipped recordings: cannot read .*half_2"):
        found = read_recordings(files, on_bad="warn").datasets
    names = [Path(d.description["path"]).name for d in found]
    assert names == [f"Subject0{i}_2.edf" for i in range(3)]
    (whole,) = read_recordings([edf_folder / "Subject01_2.edf"]).datasets
    np.testing.assert_array_equal(found[1].raw.get_data(), whole.raw.get_data())


def test_nothing_left(edf_folder):
    with refused(r"empty_2.edf: the file is empty"):
        read_recordings([edf_folder / "empty_2.edf"], on_bad="warn")
    with refused("paths must name at least one recording"):
        read_recordings([])
    with refused(r"missing\.edf: .*No such file"):
        read_recordings([edf_folder / "missing.edf"])
    with refused("on_bad must be one of 'raise', 'warn', got 'x'"):
        read_recordings([], on_bad="x")


def write_fif(path, data=None, sfreq=100.0, ch_names=("Cz", "Pz")):
    data = 1e-5 * np.ones((len(ch_names), 500)) if data is None else data
    info = mne.create_info(list(ch_names), sfreq, "eeg")
    raw = mne.io.RawArray(data, info, verbose="error")
    raw.save(path, fmt="double", verbose="error")
    return path


# A part of each recording


def count_up(path, n_times=500, sfreq=100.0):
    """Write a recording whose samples are their indices, in microvolts."""
    return write_fif(path, 1e-6 * np.arange(n_times)[None], sfreq, ch_names=("Cz",))


def test_crop(tmp_path):
    file = count_up(tmp_path / "a_raw.fif")
    for crop, first, last in (
        (None, 0, 499),
        ([1, None], 100, 499),
        ((None, 3.25), 0, 324),
        (np.array([4.99, 5.0]), 499, 499),
    ):
        raw = read_recordings(file, crop=crop).datasets[0].raw
        expected = np.arange(first, last + 1)
        np.testing.assert_allclose(raw.get_data()[0], expected, rtol=1e-9)


@pytest.fixture(scope="module", params=[(13, 100.0), (400, 256.41), (400, 1000 / 3)])
def counted(request, tmp_path_factory):
    """Recordings whose durations, computed in floating point, are not exact."""
    return count_up(tmp_path_factory.mktemp("counted") / "a_raw.fif", *request.param)


@settings(max_examples=15)
@given(cut=st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted))
@example(cut=[0, 1])
def test_crop_at_any_samples(counted, cut):
    raw = mne.io.read_raw(counted, verbose="error")
    sfreq, (start, stop) = raw.info["sfreq"], [round(c * raw.n_times) for c in cut]
    assume(start < stop)
    found = read_recordings(counted, crop=(start / sfreq, stop / sfreq)).datasets[0]
    expected = np.arange(start, stop)
    np.testing.assert_allclose(found.raw.get_data()[0], expected, rtol=1e-9)


def test_crop_is_made_before_resampling(tmp_path):
    rng = np.random.default_rng(0)
    file = write_fif(tmp_path / "a_raw.fif", 1e-5 * rng.normal(size=(2, 500)))
    found = read_recordings(file, crop=(1, 3), sfreq=50).datasets[0].raw
    raw = mne.io.read_raw(file, preload=True, verbose="error")
    raw.crop(1, 3, include_tmax=False).resample(50, verbose="error")
    np.testing.assert_allclose(found.get_data(), 1e6 * raw.get_data(), rtol=1e-9)
    assert found.n_times == 100


@pytest.mark.parametrize("meas_date", [None, 1e9])
def test_crop_keeps_events_at_their_samples(tmp_path, meas_date):
    file = tmp_path / "a_raw.fif"
    make_raw(EVENTS, meas_date=meas_date).save(file, verbose="error")
    options = {"stimulus": "go", "response": "hit", "window_seconds": 1.0}
    whole = response_time_windows(read_recordings(file), **options)
    # Without the first of the stimuli.
    part = response_time_windows(read_recordings(file, crop=(4, None)), **options)
    assert len(part) == len(whole) - 1 > 0
    for i, (X, y, _) in enumerate(part):
        np.testing.assert_array_equal(X, whole[i + 1][0])
        np.testing.assert_allclose(y, whole[i + 1][1], rtol=1e-5)


def test_crop_outside_of_a_recording(tmp_path):
    long = count_up(tmp_path / "a_raw.fif", n_times=800)
    short = count_up(tmp_path / "b_raw.fif")
    for crop, message in (
        ((5, 7), "b_raw.fif: crop begins at 5 s, but the recording is 5 s long"),
        ((None, 5.01), r"b_raw.fif: crop ends at 5.01 s, but the recording is 5 s"),
        ((1, 1e300), r"b_raw.fif: crop ends at 1e\+300 s, but the recording is 5 s"),
        ((1.001, 1.002), "crop from 1.001 s to 1.002 s holds no sample at 100 Hz"),
    ):
        with refused(message):
            read_recordings([long, short], crop=crop)


def test_crop_leaves_out_short_recordings_where_bad_ones_are(tmp_path):
    files = [count_up(tmp_path / f"{s}_raw.fif", 100 * s) for s in (3, 5, 8)]
    with pytest.warns(UserWarning, match=r"skipped .*3_raw.fif: crop ends at 4 s"):
        recordings = read_recordings(files, crop=(2, 4), on_bad="warn")
    assert [r.raw.n_times for r in recordings.datasets] == [200, 200]


def test_values_that_are_not_finite_may_be_cut_off(tmp_path):
    data = 1e-5 * np.ones((2, 500))
    data[1, 450] = np.nan
    file = write_fif(tmp_path / "a_raw.fif", data)
    read_recordings(file, crop=(None, 4))
    with refused(r"a_raw.fif: channel 'Pz' holds NaN"):
        read_recordings(file)


def test_crop_is_refused():
    message = r"crop must be \(tmin, tmax\), each a number of seconds or None.*got "
    for crop in ((5,), (0, "2")):
        with pytest.raises(TypeError, match=message + re.escape(repr(crop))):
            read_recordings([], crop=crop)
    for crop in ((1, 1), (-1, 1), (1, math.nan), (0, math.inf)):
        with refused(message + re.escape(repr(crop))):
            read_recordings([], crop=crop)


PEOPLE = pd.DataFrame({"participant_id": ["sub-1", "sub-2"], "age": [20.0, np.nan]})


def test_participants_from_tables(tmp_path):
    files = [write_fif(tmp_path / f"sub-{i}_task-rest_eeg.fif") for i in (1, 2)]
    PEOPLE.to_csv(tmp_path / "participants.tsv", sep="\t", index=False)
    recordings = read_recordings(files, participants=tmp_path / "participants.tsv")
    assert recordings.datasets[0].description["age"] == 20
    assert len(read_recordings(str(files[0])).datasets) == 1
    windows = subject_target_windows(
        read_recordings(files[:1], participants=PEOPLE), "age",
        window_seconds=1.0, stride_seconds=0.5,
    )  # fmt: skip
    assert len(windows) == 9
    assert windows[0][1].tolist() == [20.0]


def test_bad_participants(tmp_path):
    files = [write_fif(tmp_path / f"sub-{i}_eeg.fif") for i in (1, 2, 3)]
    with refused(r"sub-3_eeg.fif: .* no row for 'sub-3'; it has sub-1, sub-2"):
        read_recordings(files, participants=PEOPLE)
    twice = pd.concat([PEOPLE, PEOPLE[:1]])
    with refused(r"one row for each subject.*several for 'sub-1'"):
        read_recordings(files[:1], participants=twice)
    recordings = read_recordings(files[:2], participants=PEOPLE)
    with refused(r"got 'IQ', but recording .*sub-1_eeg.fif has .*age"):
        subject_target_windows(recordings, "IQ")
    with refused(r"'age' of recording .*sub-2_eeg.fif.*got nan"):
        subject_target_windows(recordings, "age")


def test_names_of_participants_are_text(tmp_path):
    file = write_fif(tmp_path / "01_eeg.fif")
    (tmp_path / "people.csv").write_text("id,age\n01,30\n02,31\n,\n")
    for subject_of in (None, lambda path: "01"):
        recordings = read_recordings(
            file, participants=tmp_path / "people.csv", subject_of=subject_of
        )
        assert recordings.datasets[0].description["age"] == 30
    people = pd.DataFrame({"id": [1, 2], "age": [30, 31]})
    recordings = read_recordings(file, participants=people, subject_of=lambda path: 1)
    assert recordings.datasets[0].description["age"] == 30
    with refused("a column named 'path', which is reserved"):
        read_recordings(file, participants=people.assign(path="x"))


def test_recordings_that_do_not_fit_together(tmp_path):
    files = [
        write_fif(tmp_path / "a_raw.fif"),
        write_fif(tmp_path / "b_raw.fif", ch_names=("Cz", "Oz")),
    ]
    with refused(r"the same ch_names, got .*'Oz'.* in .*b_raw.fif"):
        read_recordings(files)
    assert len(read_recordings(files, picks=["Cz"]).datasets) == 2


# Targets and subjects passed with the data


@pytest.mark.filterwarnings("ignore::DeprecationWarning:braindecode")
@pytest.mark.filterwarnings("ignore:.*drop_last_window.*:DeprecationWarning")
def test_to_arrays_uses_the_targets_and_groups_it_is_given():
    epochs = simulate_response_times(2, 3, n_chans=4, n_times=200, random_state=0)
    y, groups = np.arange(6.0), np.repeat(["a", "b", "c"], 2)
    own_y = epochs.metadata["response_time"].to_numpy(np.float32)
    own_groups = epochs.metadata["subject"].to_numpy(str)

    def check(expected, *args, **options):
        X, *found = to_arrays(*args, **options)
        np.testing.assert_array_equal(found[0], expected[0])
        np.testing.assert_array_equal(found[1], expected[1])
        return X

    check((own_y, groups), epochs, groups=groups, target="response_time")
    check((y, own_groups), epochs, y)
    X = check((y, groups), epochs, y, groups)
    windows = create_from_X_y(X, y, drop_last_window=False, sfreq=100)
    X_2 = check((y[::-1], groups), windows, y[::-1], groups)
    np.testing.assert_array_equal(X_2, X)
    with refused("same length, got X: 6, y: 5, groups: 6"):
        to_arrays(epochs, y[:5], groups)
    epochs.metadata = None
    check((y, groups), epochs, y, groups)
    with refused(r"must have metadata.*or pass y and groups"):
        to_arrays(epochs, y)


@pytest.mark.parametrize(("meas_date", "first_samp"), [(None, 250), (1e9, 0)])
def test_crop_keeps_only_annotations_that_begin_inside(tmp_path, meas_date, first_samp):
    events = [(2.0, "before"), (3.0, "first"), (9.99, "last"), (10.0, "at the end")]
    raw = make_raw(events, first_samp=first_samp, meas_date=meas_date)
    raw.annotations.duration[:] = [4, 1, 3, 0]  # the first one lasts into the part
    raw.save(tmp_path / "a_raw.fif", verbose="error")
    parts = [
        read_recordings(tmp_path / "a_raw.fif", crop=crop).datasets[0].raw
        for crop in ((3, 10), (10, 20))
    ]
    assert [list(part.annotations.description) for part in parts] == [
        ["first", "last"],
        ["at the end"],
    ]
    for part, expected in zip(parts, ([0, 699], [0]), strict=True):
        found, _ = mne.events_from_annotations(part, verbose="error")
        assert (found[:, 0] - part.first_samp).tolist() == expected


def test_channels_of_any_kind_of_electrode_are_microvolts(tmp_path):
    kinds = ["eeg", "ecog", "seeg", "dbs", "bio", "misc"]
    raw = mne.io.RawArray(np.full((6, 50), 1e-5), mne.create_info(6, 50.0, kinds))
    raw.save(tmp_path / "a_raw.fif", verbose="error")
    found = read_recordings(tmp_path / "a_raw.fif").datasets[0].raw.get_data()
    np.testing.assert_allclose(found[:, 0], [10] * 5, rtol=1e-6)
    found = read_recordings(tmp_path / "a_raw.fif", picks="misc").datasets[0].raw
    np.testing.assert_allclose(found.get_data(), 1e-5, rtol=1e-6)
