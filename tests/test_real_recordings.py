"""Files, annotations, channels and tables as people have them."""

import logging
import re
import tracemalloc
import warnings

import mne
import numpy as np
import pandas as pd
import pytest
import sklearn
from braindecode.datasets import BaseConcatDataset, RawDataset
from braindecode.datautil import load_concat_dataset
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.pipeline import make_pipeline

from braindecode_sam import make_classifier, make_regressor
from braindecode_sam.comparison import paired_comparison
from braindecode_sam.datasets import (
    SubjectScaler,
    SubjectWindows,
    read_recordings,
    response_time_windows,
    subject_target_windows,
    to_arrays,
)

RNG = np.random.default_rng(0)


def refused(message):
    return pytest.raises(ValueError, match=message)


def make_raw(n_chans=2, n_times=1000, kinds="eeg", sfreq=100.0, scale=1e-5):
    names = [f"C{i}" for i in range(n_chans)]
    info = mne.create_info(names, sfreq, kinds)
    data = scale * RNG.normal(size=(n_chans, n_times))
    return mne.io.RawArray(data, info, verbose="error")


def save(path, raw=None):
    (make_raw() if raw is None else raw).save(path, verbose="error")
    return path


def biosig(path, rates, *, n_records=100, width=2, labels=None, declared=None):
    """Write an EDF (2 bytes) or BDF (3 bytes) file with a sine in each signal."""
    n, limit = len(rates), 2 ** (8 * width - 1)
    labels = labels or [f"EEG C{i}" for i in range(n)]

    def text(values, size):
        return "".join(str(value).ljust(size) for value in values).encode()

    first = b"\xffBIOSEMI" if width == 3 else text("0", 8)
    header = first + text(["X", "Startdate X"], 80) + text(["01.01.20", "00.00.00"], 8)
    header += text([256 * (n + 1)], 8) + text([" "], 44)
    header += text([n_records if declared is None else declared, 1], 8) + text([n], 4)
    for values, size in (
        (labels, 16), ([""] * n, 80), (["uV"] * n, 8), ([-3000] * n, 8),
        ([3000] * n, 8), ([-limit] * n, 8), ([limit - 1] * n, 8), ([""] * n, 80),
        (rates, 8), ([""] * n, 32),
    ):  # fmt: skip
        header += text(values, size)
    with path.open("wb") as file:
        file.write(header)
        for second in range(n_records):
            for rate in rates:
                t = second + np.arange(rate) / rate
                digital = np.round(50 * np.sin(0.4 * t) / 3000 * limit).astype("<i4")
                file.write(digital.view("u1").reshape(-1, 4)[:, :width].tobytes())
    return path


# Files


@pytest.mark.parametrize("rates", [(100, 1), (100, 250), (128, 128)])
@pytest.mark.parametrize("crop", [(30, 90), (10.5, 75.5)])
def test_signals_of_several_rates_are_cropped_as_they_are_whole(tmp_path, rates, crop):
    file = biosig(tmp_path / "a_b.edf", rates)
    whole = read_recordings(file).datasets[0].raw
    part = read_recordings(file, crop=crop).datasets[0].raw
    start, stop = (round(t * whole.info["sfreq"]) for t in crop)
    np.testing.assert_allclose(part.get_data(), whole.get_data()[:, start:stop])


@pytest.mark.parametrize(("suffix", "width"), [("edf", 2), ("EDF", 2), ("bdf", 3)])
def test_truncated_files(tmp_path, suffix, width):
    file = biosig(tmp_path / f"a_b.{suffix}", (100, 100), width=width, n_records=10)
    assert read_recordings(file).datasets[0].raw.n_times == 1000
    unfinished = biosig(
        tmp_path / f"c_d.{suffix}", (100, 100), width=width, n_records=10, declared=-1
    )
    with pytest.warns(RuntimeWarning, match="perhaps the recording was not stopped"):
        recordings = read_recordings(unfinished)  # a warning of MNE
    assert recordings.datasets[0].raw.n_times == 1000
    file.write_bytes(file.read_bytes()[: file.stat().st_size * 7 // 10])
    with refused("the file is truncated: it has [0-9]+ of [0-9]+ bytes"):
        read_recordings(file)


def test_a_truncated_file_of_brainvision(tmp_path):
    pytest.importorskip("pybv")
    file = tmp_path / "a_b.vhdr"
    mne.export.export_raw(file, make_raw(), fmt="brainvision", verbose="error")
    text = file.read_text()
    file.write_text(
        text.replace("NumberOfChannels", "DataPoints=1000\nNumberOfChannels")
    )
    assert read_recordings(file).datasets[0].raw.n_times == 1000
    data = file.with_suffix(".eeg")
    data.write_bytes(data.read_bytes()[:-400])
    with refused("the file is truncated"):
        read_recordings(file)


def test_picked_channels_need_their_own_memory(tmp_path):
    file = save(tmp_path / "a_raw.fif", make_raw(16, 200_000))
    sizes = {}
    for name, picks in (("all", None), ("two", ["C0", "C1"])):
        tracemalloc.start()
        recordings = read_recordings(file, picks=picks)
        sizes[name] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        del recordings
    whole = 16 * 200_000 * 8
    assert sizes["all"] < 2.6 * whole
    assert sizes["two"] < 0.7 * whole


def test_each_file_whose_name_has_no_underscore_is_a_subject_and_says_so(tmp_path):
    nights = [save(tmp_path / f"SC404{i}E0-PSG.fif") for i in (1, 2)]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This filename")  # MNE's conventions
        with pytest.warns(UserWarning, match=r"each of 2 files .*'SC4041E0-PSG.fif'"):
            read_recordings(nights)
        found = read_recordings(nights, subject_of=lambda path: path.stem[:5])
    assert found.description["subject"].unique().tolist() == ["SC404"]


def test_subjects_by_the_names_of_files(tmp_path):
    names = {"P.01_raw.fif": "P.01", "P.02_raw.fif": "P.02", "sub-3.fif": "sub-3"}
    files = [save(tmp_path / name) for name in names]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This filename")  # MNE's conventions
        found = read_recordings(files)
    assert found.description["subject"].tolist() == list(names.values())


def test_parts_of_a_recording_are_not_read_again(tmp_path):
    raw = make_raw(16, 40_000)
    raw.save(
        tmp_path / "sub-1_raw.fif", split_size="2MB", split_naming="bids",
        verbose="error",
    )  # fmt: skip
    files = sorted(tmp_path.glob("*.fif"))
    assert len(files) > 1
    with refused(r"split-02_raw.fif: it is a part of .*split-01_raw.fif"):
        read_recordings(files)
    with pytest.warns(UserWarning, match="it is a part of"):
        (whole,) = read_recordings(files, on_bad="warn").datasets
    assert whole.raw.n_times == 40_000


# Channels


KINDS = ["eeg", "eog", "stim", "misc"]


def test_triggers_are_no_input_and_are_not_scaled(tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="braindecode_sam")
    raw = make_raw(4, 1000, KINDS)
    raw._data[2] = np.arange(1000) % 3
    file = save(tmp_path / "a_raw.fif", raw)
    recording = read_recordings(file).datasets[0].raw
    np.testing.assert_allclose(recording.get_data(), 1e6 * raw.get_data()[:2], 1e-6)
    assert "left out the channels C2, C3" in caplog.text
    trigger = read_recordings(file, picks=["C2"]).datasets[0].raw
    np.testing.assert_array_equal(trigger.get_data()[0], np.arange(1000) % 3)
    events = np.array([[s, 0, 1] for s in (0, 100, 300)])
    epochs = mne.Epochs(raw, events, tmin=0, tmax=0.99, baseline=None, preload=True,
                        verbose="error")  # fmt: skip
    X, *_ = to_arrays(epochs, [1, 2, 3], list("aab"))
    expected = 1e6 * epochs.get_data(picks=["C0", "C1"])
    np.testing.assert_allclose(X, expected, rtol=1e-5)
    raw._data *= 1e6
    windows = [RawDataset(raw, {"subject": "a", "age": age}) for age in (20, 30)]
    windows = subject_target_windows(BaseConcatDataset(windows), "age")
    assert to_arrays(windows)[0].shape == (4, 2, 400)


def test_channels_of_mnes_default_type_are_inputs_where_there_are_no_others():
    epochs = mne.EpochsArray(RNG.normal(size=(3, 2, 50)), mne.create_info(2, 50.0))
    X, *_ = to_arrays(epochs, [1, 2, 3], list("aab"))
    np.testing.assert_allclose(X, epochs.get_data(copy=False), rtol=1e-6)
    only = mne.EpochsArray(np.zeros((3, 2, 50)), mne.create_info(2, 50.0, "stim"))
    with refused(r"all are of the types \['stim'\]; set their types"):
        to_arrays(only, [1, 2, 3], list("aab"))


@pytest.mark.parametrize("preload", [True, False])
def test_rejected_epochs_and_their_targets_are_left_out(preload):
    raw = make_raw(3)
    raw._data[0, 450] = 1e-2
    events = np.array([[s, 0, 1] for s in (100, 200, 400, 600)])
    table = pd.DataFrame({"target": [1.0, 2, 3, 4], "subject": list("aabb")})
    epochs = mne.Epochs(
        raw, events, tmin=0, tmax=0.9, baseline=None, reject={"eeg": 5e-3},
        metadata=table, preload=preload, verbose="error",
    )  # fmt: skip
    X, y, groups = to_arrays(epochs)
    assert (len(X), y.tolist(), groups.tolist()) == (3, [1, 2, 4], list("aab"))
    assert epochs.preload == preload


# Cuts


CUTS = {
    "boundary": 0.0, "New Segment/": 0.0, "BAD boundary": 0.0, "EDGE boundary": 0.0,
    "BAD_ACQ_SKIP": 0.3, "bad_muscle": 0.5,
}  # fmt: skip


def with_annotations(onsets, durations, names):
    raw = make_raw(1, 6000)
    raw.set_annotations(mne.Annotations(onsets, durations, names))
    return BaseConcatDataset([RawDataset(raw, {"subject": "a", "age": 20.0})])


@pytest.mark.parametrize("name", CUTS)
def test_windows_and_trials_across_a_cut_are_left_out(name, caplog):
    caplog.set_level(logging.INFO, logger="braindecode_sam")
    onsets, names = [1, 1.6, 5, 5.3, 1.2], ["stim", "press"] * 2 + [name]
    recordings = with_annotations(onsets, [0, 0, 0, 0, CUTS[name]], names)
    options = {"stimulus": "stim", "response": "press", "window_seconds": 1.0}
    found = response_time_windows(recordings, **options)
    assert found.get_metadata()["response_time"].tolist() == pytest.approx([0.3])
    assert "1 across a cut" in caplog.text
    kept = response_time_windows(recordings, **options, reject_by_annotation=False)
    assert len(kept) == 2
    windows = subject_target_windows(recordings, "age", window_seconds=2.0)
    starts = windows.get_metadata()["i_start_in_trial"].tolist()
    assert starts == [200 * i for i in range(1, 30)]
    all_of_them = subject_target_windows(
        recordings, "age", window_seconds=2.0, reject_by_annotation=False
    )
    assert len(all_of_them) == 30


def test_a_window_may_begin_at_a_cut_and_boundaries_of_eeglab_are_points():
    """Their duration is that of what was left out."""
    recordings = with_annotations([0, 2], [0, 30], ["New Segment/", "boundary"])
    windows = subject_target_windows(recordings, "age", window_seconds=2.0)
    assert len(windows) == 30
    recordings = with_annotations([0], [60], ["BAD_all"])
    with refused("no window is left of 30"):
        subject_target_windows(recordings, "age", window_seconds=2.0)


@pytest.mark.parametrize("at", [5.0, 5.005])
def test_cuts_between_two_samples(at):
    """As EEGLAB stores them: the sample after the cut is the next one."""
    names = [*["go", "hit"] * 2, "boundary"]
    recordings = with_annotations([5, 5.3, 8, 8.2, at], np.zeros(5), names)
    found = response_time_windows(
        recordings, stimulus="go", response="hit", window_seconds=1.0
    )
    assert len(found) == (2 if at == 5 else 1)


def test_response_times_across_joined_recordings():
    first, second = (
        with_annotations([1, 1.6, 5, 5.3], 0, ["stim", "press"] * 2).datasets[0].raw
        for _ in range(2)
    )
    raw = mne.concatenate_raws([first.crop(0, 1.1), second.crop(1.3)], verbose="error")
    recordings = BaseConcatDataset([RawDataset(raw, {"subject": "a"})])
    found = response_time_windows(
        recordings, stimulus="stim", response="press", window_seconds=1.0
    )
    assert found.get_metadata()["response_time"].tolist() == pytest.approx([0.3])


@pytest.mark.parametrize("kind", ["age", "response time"])
@pytest.mark.filterwarnings("ignore::RuntimeWarning:mne")
@pytest.mark.filterwarnings("ignore:The 'convert_dates' keyword")  # braindecode's
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore:X has a standard deviation")
def test_saved_windows_are_read_again(kind, tmp_path):
    stimuli = np.arange(2, 50, 4.0)
    onsets = np.r_[stimuli, stimuli + np.linspace(0.3, 1, 12)]
    names = ["stim"] * 12 + ["press"] * 12
    recordings = with_annotations(onsets, np.zeros(24), names)
    recordings.datasets += with_annotations(onsets, np.zeros(24), names).datasets
    recordings.datasets[1].description["age"] = 30.0
    recordings = BaseConcatDataset(recordings.datasets)
    windows = (
        subject_target_windows(recordings, "age", window_seconds=2.0)
        if kind == "age"
        else response_time_windows(
            recordings, stimulus="stim", response="press", window_seconds=2.0
        )
    )
    windows.save(str(tmp_path))
    again = load_concat_dataset(str(tmp_path), preload=True)
    for first, second in zip(to_arrays(windows)[:2], to_arrays(again)[:2], strict=True):
        np.testing.assert_allclose(first, second, rtol=1e-5)
    losses = [
        make_regressor(
            device="cpu", module="FastEEGNet", module__n_chans=1, module__n_times=200,
            batch_size=8, max_epochs=1, verbose=0, random_state=0,
            callbacks__window_check=None,
        ).fit(data, y=None).history[-1, "train_loss"]
        for data in (windows, again)
    ]  # fmt: skip
    np.testing.assert_allclose(*losses, rtol=1e-3)


# Tables


@pytest.fixture
def people(tmp_path):
    """Files of four people, and a function that reads them with a table."""
    files = [save(tmp_path / f"sub-{i:03d}_task-rest_eeg.fif") for i in range(4)]

    def read(ages, **options):
        rows = [f"sub-{i:03d}\t{age}\n" for i, age in enumerate(ages) if age]
        table = tmp_path / "participants.tsv"
        table.write_text("participant_id\tage\n" + "".join(rows))
        return read_recordings(files, participants=table, **options), table

    return read


@pytest.mark.parametrize("entry", ["18-38", "89+", "22,5"])
def test_an_entry_that_is_no_number_is_named_with_its_recording(people, entry):
    recordings, _ = people([20, 21, entry, 23])
    shown = re.escape(repr(entry))
    with refused(f"'age' of recording .*sub-002.* number, got {shown}"):
        subject_target_windows(recordings, "age")


def test_numbers_that_are_written_as_text_are_numbers(people):
    recordings, _ = people(["20", "21", " 22.5 ", "1e2"])
    windows = subject_target_windows(recordings, "age", window_seconds=5.0)
    assert to_arrays(windows)[1].tolist() == [20, 20, 21, 21, 22.5, 22.5, 100, 100]


def test_a_subject_without_a_row_is_a_bad_file(people):
    with refused("sub-002_task-rest_eeg.fif: participants has no row for 'sub-002'"):
        people([20, 21, None, 23])
    with pytest.warns(UserWarning, match="skipped recordings: .*no row for 'sub-002'"):
        recordings, _ = people([20, 21, None, 23], on_bad="warn")
    assert recordings.description["age"].tolist() == [20, 21, 23]


def test_targets_are_those_of_the_windows_not_of_the_table():
    names = ["go", "hit", "go", "hit"]
    recordings = with_annotations([5, 5.4, 8, 8.3], np.zeros(4), names)
    description = {"subject": "a", "target": 7.0, "response_time": 9.0, "age": 40.0}
    raw = recordings.datasets[0].raw
    raw._data *= 1e6
    recordings = BaseConcatDataset([RawDataset(raw, description)])
    windows = response_time_windows(
        recordings, stimulus="go", response="hit", window_seconds=1.0
    )
    for column in ("target", "response_time"):
        y = to_arrays(windows, target=column)[1]
        assert y.tolist() == pytest.approx([0.4, 0.3])
        assert y.tolist() == pytest.approx([y[0] for _, y, _ in windows])


def test_recordings_of_several_rates_have_no_common_windows():
    parts = [
        RawDataset(make_raw(sfreq=rate), {"subject": rate, "age": rate})
        for rate in (50.0, 100.0)
    ]
    with refused(r"the same sfreq, got \[50.0, 100.0\]"):
        subject_target_windows(BaseConcatDataset(parts), "age")


def test_a_table_for_recordings_of_any_origin_which_stay_as_they_are(people):
    recordings, table = people([20, 21, 22, 23])
    own = [
        RawDataset(one.raw, {"subject": f"{i:03d}"})  # as braindecode's BIDSDataset
        for i, one in enumerate(recordings.datasets)
    ]
    windows = subject_target_windows(
        BaseConcatDataset(own), "age", participants=table, window_seconds=10.0
    )
    assert to_arrays(windows)[1].tolist() == [20, 21, 22, 23]
    assert [one.target_name for one in own] == [None] * 4
    assert list(own[0].description) == ["000"]


# Arrays


def test_a_net_is_not_trained_on_triggers():
    epochs = mne.EpochsArray(
        RNG.normal(size=(8, 3, 200)), mne.create_info(3, 100.0, ["eeg", "eeg", "stim"])
    )
    net = make_regressor(
        device="cpu", module="FastEEGNet", module__n_chans=3, module__n_times=200
    )
    with refused(r"type 'stim', .*got \['2'\]; call epochs.pick"):
        net.fit(epochs, np.arange(8.0, dtype="float32"))


def test_targets_that_float32_cannot_tell_apart():
    X, seconds = RNG.normal(size=(8, 2, 200)).astype("float32"), 1.7e9 + np.arange(8.0)
    net = make_regressor(
        device="cpu", module="FastEEGNet", module__n_chans=2, module__n_times=200
    )
    for use in (
        lambda: to_arrays(X, seconds, list("aabbccdd")),
        lambda: net.fit(X, seconds),
    ):
        with refused("float32 can tell apart, .*got 1700000000.0 to 1700000007.0"):
            use()
    assert to_arrays(X, seconds - 1.7e9, list("aabbccdd"))[1].tolist() == [*range(8)]


def test_the_scaler_gets_groups_that_are_routed():
    X = RNG.normal(size=(12, 2, 128)).astype("float32")
    windows = SubjectWindows(X, list("aabbccddeeff"))
    net = make_classifier(
        device="cpu", module="FastEEGNet", max_epochs=1, batch_size=4, verbose=0
    )
    with sklearn.config_context(enable_metadata_routing=True):
        search = GridSearchCV(
            make_pipeline(SubjectScaler(), net), {"classifier__optimizer__rho": [0.1]},
            cv=GroupKFold(2), error_score="raise",
        )  # fmt: skip
        search.fit(windows, ["left", "right"] * 6, groups=windows.groups)
    assert np.isfinite(search.best_score_)
    with refused("or the subjects that they carry"):
        SubjectScaler().transform(windows, windows.groups[::-1])


def test_masked_values_are_refused():
    X = np.ma.masked_greater(RNG.normal(size=(4, 2, 50)), 2)
    with refused("X must have no masked values, got [1-9]"):
        to_arrays(X, [1, 2, 3, 4], list("aabb"))
    y = np.ma.array([1.0, 2, 3, 4], mask=[0, 0, 1, 0])
    with refused("y must have no masked values, got 1"):
        to_arrays(X.data, y, list("aabb"))
    nothing = np.ma.array(X.data)
    assert to_arrays(nothing, [1, 2, 3, 4], list("aabb"))[0].shape == X.shape


def test_a_table_is_no_list_of_subjects():
    table = pd.DataFrame({"subject": list("aabb"), "run": 1})
    with refused(r"groups must be one column.*\['subject', 'run'\]"):
        to_arrays(np.zeros((4, 2, 50)), [1, 2, 3, 4], table)
    with refused("groups must be one column"):
        paired_comparison([1.0, 2, 3, 4], [1.0, 2, 3, 3], [1.0, 2, 4, 4], table)


@pytest.mark.parametrize("kind", ["array", "epochs", "recordings"])
def test_windows_are_written_to_a_file(kind, tmp_path):
    if kind == "recordings":
        parts = [
            RawDataset(make_raw(scale=10.0), {"subject": age, "age": age})
            for age in (20, 30)
        ]
        data, options = subject_target_windows(BaseConcatDataset(parts), "age"), {}
    else:
        options = {"y": [1.0, 2, 3], "groups": list("aab")}
        data = RNG.normal(size=(3, 2, 50))
    if kind == "epochs":
        data = mne.EpochsArray(1e-5 * data, mne.create_info(2, 50.0, "eeg"))
    expected = to_arrays(data, **options)
    X, y, groups = to_arrays(data, **options, out=tmp_path / "windows.npy")
    assert isinstance(X, np.memmap)
    np.testing.assert_array_equal(X, np.load(tmp_path / "windows.npy"))
    for found, wanted in zip((X, y, groups), expected, strict=True):
        np.testing.assert_array_equal(found, wanted)
    assert SubjectWindows(X, groups)[[0, 1]].shape[0] == 2


def test_a_file_of_windows_is_replaced_as_a_whole(tmp_path):
    file, y, groups = tmp_path / "windows.npy", [1.0, 2, 3], list("aab")
    first = to_arrays(RNG.normal(size=(3, 2, 50)), y, groups, out=file)[0]
    kept = first.copy()
    second = to_arrays(RNG.normal(size=(3, 2, 50)), y, groups, out=file)[0]
    again = to_arrays(second, y, groups, out=file)[0]  # its own file
    np.testing.assert_array_equal(first, kept)
    np.testing.assert_array_equal(again, second)
    with refused("y and groups|same length"):
        to_arrays(RNG.normal(size=(3, 2, 50)), [1.0, 2], groups, out=file)
    np.testing.assert_array_equal(np.load(file), second)
    assert [path.name for path in tmp_path.iterdir()] == ["windows.npy"]
    with refused("out must end in .npy, got 'windows'"):
        to_arrays(RNG.normal(size=(3, 2, 50)), y, groups, out="windows")
