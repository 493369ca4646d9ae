"""Checks before training: every error text, and no training on bad data."""

import io
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
import torch
from braindecode.datasets import create_from_X_y
from hypothesis import given
from hypothesis import strategies as st
from skorch.callbacks import Callback
from skorch.helper import SliceDataset

from braindecode_sam import SAM
from braindecode_sam.callbacks import WindowCheck
from braindecode_sam.comparison import paired_comparison
from braindecode_sam.datasets import (
    SubjectScaler,
    SubjectWindows,
    simulate_response_times,
    to_arrays,
)
from braindecode_sam.nets import Regressor

RNG = np.random.default_rng(0)
X = RNG.normal(size=(12, 4, 100)).astype(np.float32)
Y = RNG.normal(size=12).astype(np.float32)
GROUPS = np.repeat(["a", "b", "c"], 4)


def spoiled(array, index, value):
    array = array.copy()
    array[index] = value
    return array


BAD = {
    "nan": (spoiled(X, (3, 0, 0), np.nan), Y, "window 3 holds NaN or infinite"),
    "inf": (spoiled(X, (11, 3, 99), np.inf), Y, "window 11 holds NaN or infinite"),
    "2-D": (X[:, 0], Y, r"n_windows, n_chans, n_times.*got \(12, 100\)"),
    "empty": (X[:0], Y[:0], r"no empty dimension, got \(0, 4, 100\)"),
    "lengths": (X, Y[:5], "must have the same length, got X: 12, y: 5"),
    "nan target": (X, spoiled(Y, 2, np.nan), "y must be finite, got .?nan.? for wind"),
    "constant": (X, np.ones(12), "y is constant .output 0 is 1.0 in all 12 windows"),
    "bytes": (X, np.array([b"1"] * 12, dtype=object), "y must hold numbers"),
    "huge integer": (X, np.array([10**400] * 12), "y must hold numbers"),
    "3-D target": (X, np.zeros((12, 1, 1)), r"y must have the shape.*got \(12, 1, 1\)"),
    "no output": (X, np.zeros((12, 0)), r"y must .* not be empty, got \(12, 0\)"),
}
BAD_LABELS = {
    "constant": (np.array(["x"] * 12), "y is constant .'x' in all 12 windows"),
    "missing": (
        ["low", None] * 6,
        "y must name a label for every window, got None .* 1",
    ),
    "columns": (
        [["low", "a"]] * 12,
        r"y must have the shape \(n_windows,\), got .*12,",
    ),
    "mixed": (["low", 1.0] * 6, "y must .* all text or all numbers, got 1.0 for wind"),
    "lengths": (["low", "high"], "same length, got X: 12, y: 2"),
}


@pytest.mark.parametrize("name", BAD)
def test_arrays_are_refused(name):
    windows, y, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        to_arrays(windows, y, GROUPS[: len(windows)])


@pytest.mark.parametrize("name", BAD_LABELS)
def test_labels_are_refused(name):
    y, message = BAD_LABELS[name]
    with pytest.raises(ValueError, match=message):
        to_arrays(X, y, GROUPS)


def test_targets_are_refused_by_comparisons():
    for y, message in (
        (spoiled(Y, 2, np.nan), "y must be finite, got .?nan.? for wind"),
        (np.ones(12), "y is constant .output 0 is 1.0 in all 12 windows"),
        (["low", 1.0] * 6, "y must .* all text or all numbers, got 1.0 for wind"),
    ):
        with pytest.raises(ValueError, match=message):
            paired_comparison(Y, Y, y, GROUPS)


def test_windows_of_many_blocks_are_read_to_the_end():
    windows = np.zeros((600, 1, 10))
    windows[517, 0, 9] = np.inf
    with pytest.raises(ValueError, match="window 517 holds NaN or infinite"):
        SubjectScaler().transform(windows, np.arange(600) // 100)


def test_arrays_are_accepted():
    for windows, y in (
        (X, ["low", "high"] * 6),
        (torch.tensor(X), Y[:, None]),
        (SubjectWindows(X, GROUPS), torch.tensor(np.stack([Y, -Y], axis=1))),
        (X, np.tile([-3e38, 3e38], 6)),  # the range overflows
        (X, pd.Series([*range(11), 2**24], dtype="Int64")),
    ):
        found = to_arrays(windows, y, GROUPS)
        np.testing.assert_array_equal(found[0], X)
        expected = y if isinstance(y[0], str) else np.asarray(y, dtype=np.float32)
        np.testing.assert_array_equal(found[1], expected)
        np.testing.assert_array_equal(found[2], GROUPS)


@pytest.mark.parametrize("dtype", ["int64", "Int64", object])
@pytest.mark.parametrize("large", [2**24 + 1, 2**53 + 1, 2**62 + 1])
def test_integers_that_would_change_are_refused(dtype, large):
    y = pd.Series([*range(11), large], dtype=dtype)
    with pytest.raises(ValueError, match=f"float32 represents exactly.*got {large}"):
        to_arrays(X, y, GROUPS)


def test_an_error_stays_short():
    with pytest.raises(ValueError, match="y must hold numbers") as raised:
        to_arrays(X, [b"high"] * 999, GROUPS)
    assert len(str(raised.value)) < 300


# Groups


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (spoiled(GROUPS.astype(object), 5, None), "window, got None for window 5"),
        (spoiled(GROUPS.astype(object), 5, np.nan), "window, got nan for window 5"),
        (np.array(["NaT"] * 12, "M8[ns]"), "window, got .*NaT.* for window 0"),
        (GROUPS[:3], "got X: 12, y: 12, groups: 3"),
        (set(range(12)), r"groups must have the shape \(n_windows,\)"),
        ([[1]] * 12, r"groups must have the shape \(n_windows,\)"),
        ([1] * 11 + ["a"], "be all text or all numbers, got 'a' for window 11"),
        # Arrays would have changed these.
        ([2**53 + 1] * 11 + [0.5], "numbers that NumPy stores unchanged, got .*9007"),
        ([2**70, *range(11)], "NumPy stores unchanged"),
        ([Fraction(1, 3)] * 12, "NumPy stores unchanged"),
    ],
)
def test_groups_are_refused(groups, message):
    with pytest.raises(ValueError, match=message):
        to_arrays(X, Y, groups)


@pytest.mark.parametrize(
    ("groups", "dtype"),
    [
        (np.array([3, 4, np.uint8(5)], dtype=object), "<i8"),
        (np.array([1, 2], dtype=np.uint64), "<u8"),
        (pd.Series(["a", "bc"], dtype="string"), "<U2"),
        ([1, 2.5], "<f8"),
        ([True, False], "|b1"),
    ],
)
def test_groups_have_a_dtype_of_their_kind(groups, dtype):
    found = SubjectWindows(X[: len(groups)], groups).groups
    assert found.dtype == dtype
    assert found.tolist() == list(groups)


@given(
    st.one_of(
        st.lists(st.text(st.characters(exclude_characters="\0")), min_size=1),
        st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1),
    )
)
def test_any_groups_stay_what_they_are_and_can_be_stored(groups):
    windows = np.zeros((len(groups), 1, 1))
    found = SubjectWindows(windows, np.array(groups, dtype=object)).groups
    file = io.BytesIO()
    np.save(file, found)
    file.seek(0)
    assert np.load(file).tolist() == groups
    np.testing.assert_array_equal(SubjectWindows(windows, found).groups, found)


# The callback


class Counter(Callback):
    """Counts the training batches."""

    def __init__(self):
        self.batches_ = 0

    def on_batch_begin(self, net, batch=None, training=None, **kwargs):
        self.batches_ += 1


def make_net(**options):
    counter = Counter()
    net = Regressor(
        "FastEEGNet", optimizer=SAM, max_epochs=1, batch_size=6, train_split=None,
        verbose=0, callbacks=[WindowCheck(), counter], random_state=0, n_threads=1,
        **options,
    )  # fmt: skip
    return net, counter


@pytest.mark.parametrize(
    ("factor", "match"), [(1e-6, "like EEG in volts"), (1e8, "far more than EEG")]
)
def test_windows_in_volts_are_noticed(factor, match):
    zeros = factor * X
    zeros[:, 1:] = 0
    for check in (
        lambda: to_arrays(factor * X, Y, GROUPS),
        lambda: to_arrays(zeros, Y, GROUPS),  # silent channels do not hide it
        lambda: make_net()[0].fit(factor * X, Y),
    ):
        with pytest.warns(UserWarning, match=match):
            check()
    for ordinary in (0.0, 0.1, 100.0):
        to_arrays(ordinary * X, Y, GROUPS)


def test_the_callback_refuses_before_training():
    refused = [(*BAD[name], {}) for name in BAD if name not in ("2-D", "empty")]
    refused += [
        (X, np.array(["low", "high"] * 6), r"y must hold numbers, got .*U4", {}),
        (X, Y, r"have n_chans=4.*module__n_chans=72.*\(12, 4, 100\)", {"n_chans": 72}),
        (
            X,
            Y,
            "have n_times=100.*configured for module__n_times=500",
            {"n_times": 500},
        ),
        (X, Y, r"have n_outputs=1.*Pass .* module__n_outputs=1\.", {"n_outputs": 8}),
    ]
    for windows, y, message, shape in refused:
        shape = {"n_chans": 4, "n_times": 100, "n_outputs": 1} | shape
        net, counter = make_net(**{f"module__{n}": size for n, size in shape.items()})
        net.signal_args_set_ = True
        with pytest.raises(ValueError, match=message):
            net.fit(windows, y)
        assert counter.batches_ == 0


@pytest.mark.parametrize(
    "windows",
    [X.astype(np.float64), torch.tensor(X), SubjectWindows(X, GROUPS), None],
    ids=["float64", "tensor", "SubjectWindows", "Epochs"],
)
def test_the_callback_lets_good_arrays_pass(windows):
    net, counter = make_net()
    if windows is None:
        windows = simulate_response_times(2, 6, n_chans=4, n_times=100, random_state=0)
    net.fit(windows, Y)
    assert counter.batches_ == 2


def windows_dataset(windows, y):
    dataset = create_from_X_y(windows, y, drop_last_window=False, sfreq=100)
    dataset.target_transform = lambda y: np.atleast_1d(np.float32(y))
    return dataset


@pytest.mark.filterwarnings("ignore::DeprecationWarning:braindecode")
@pytest.mark.filterwarnings("ignore:.*drop_last_window.*:DeprecationWarning")
def test_the_callback_reads_datasets():
    net, counter = make_net()
    net.fit(windows_dataset(X, Y), y=None)
    assert counter.batches_ == 2
    net.fit(SliceDataset(windows_dataset(X, Y)), Y)
    for bad, y, message in (BAD["nan"], BAD["constant"]):
        with pytest.raises(ValueError, match=message):
            make_net()[0].fit(windows_dataset(bad, y), y=None)
