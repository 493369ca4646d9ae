"""Arbitrary input gives a correct result, or an error that names the argument."""

import math
import string

import mne
import numpy as np
import pandas as pd
import pytest
import torch
from braindecode.datasets import BaseConcatDataset, RawDataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from skorch.dataset import Dataset

from braindecode_sam import (
    TimeShift,
    load_config,
    normalized_root_mean_squared_error,
    resolve_device,
)
from braindecode_sam.configs import TrainingConfig
from braindecode_sam.datasets import SubjectWindows, to_arrays
from braindecode_sam.datasets.windows import (
    response_time_windows,
    response_times,
    subject_target_windows,
)
from braindecode_sam.metrics import pearson_correlation
from braindecode_sam.model_selection import SubjectSplit
from tests.conftest import TRIED

# Numbers of any scale.
pytestmark = pytest.mark.filterwarnings("ignore:X has a standard deviation")

quick = settings(
    max_examples=150, suppress_health_check=[HealthCheck.too_slow], deadline=None
)

REAL = ["f2", "f4", "f8", ">f4", "i1", "i8", "u2", "?"]
OTHER = ["c8", "U2", "S3", "M8[s]", "O"]
shapes = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)


@st.composite
def strided(draw, shape=shapes, dtypes=tuple(REAL + OTHER)):
    """Arrays of any dtype and layout."""
    dtype = np.dtype(draw(st.sampled_from(dtypes)))
    labels = st.sampled_from([None, 1, 2.5, "1", math.nan, "a"])
    elements = labels if dtype.kind == "O" else None
    array = draw(hnp.arrays(dtype, shape, elements=elements))
    layout = draw(st.sampled_from(["plain", "reversed", "transposed", "fortran"]))
    if layout == "reversed" and array.ndim:
        return array[::-1]
    if layout == "transposed":
        return array.T
    return np.asfortranarray(array) if layout == "fortran" and array.ndim else array


def windows_of(n):
    """Float windows, most of which are valid."""
    shape = st.tuples(st.just(n), st.integers(1, 3), st.integers(1, 4))
    return strided(shape, REAL)


label = st.one_of(
    st.integers(-2, 3),
    st.sampled_from(["a", "b", "1", "nan", "", None, math.nan, pd.NA, (), True]),
    st.floats(),
)
groups_of_any_kind = st.one_of(
    st.lists(st.sampled_from("abc"), max_size=6),
    st.lists(st.integers(0, 3), max_size=6),
    st.lists(label, max_size=6),
    strided(),
)
targets_of_any_kind = st.one_of(
    st.lists(st.floats(), max_size=6),
    st.lists(st.integers(-9, 9), max_size=6),
    st.lists(label, max_size=6),
    strided(),
)


def answer(function, *names, error_types=(ValueError, TypeError)):
    """Return the result, or None if the input was refused by name."""
    TRIED["inputs tried"] += 1
    try:
        return function()
    except error_types as error:
        if not any(name in str(error) for name in names):
            raise
        TRIED["inputs refused by name"] += 1
        return None


@quick
@given(
    X=st.one_of(strided(), st.integers(0, 6).flatmap(windows_of)),
    y=targets_of_any_kind,
    groups=groups_of_any_kind,
)
def test_to_arrays(X, y, groups):
    found = answer(lambda: to_arrays(X, y, groups), "X", "y", "groups")
    if found is not None:
        assert_same_content(found, X, y, groups)


def assert_same_content(found, X, y, groups):
    """The arrays hold the input in float32."""
    assert found[0].dtype == np.float32
    assert len(found[0]) == len(found[1]) == len(found[2]) > 0
    np.testing.assert_array_equal(found[0], np.asarray(X).astype(np.float32))
    if any(isinstance(value, str) for value in np.asarray(y, dtype=object).flat):
        assert found[1].dtype.kind == "U"
        assert found[1].tolist() == list(y)
    else:
        assert found[1].dtype == np.float32
        assert np.isfinite(found[1]).all()
        np.testing.assert_array_equal(found[1], np.asarray(y).astype(np.float32))
    assert found[2].dtype != object
    assert found[2].ndim == 1
    assert list(found[2]) == list(groups)
    assert [isinstance(x, str) for x in found[2]] == [
        isinstance(x, str) for x in groups
    ]
    assert np.isfinite(found[0]).all()


@quick
@given(data=st.data(), n=st.integers(2, 6))
def test_to_arrays_accepts_valid_input(data, n):
    X = data.draw(hnp.arrays("f8", (n, 2, 3), elements=st.floats(-1e3, 1e3)))
    y = data.draw(st.permutations(range(n)))
    groups = data.draw(
        st.one_of(
            st.lists(st.text(string.ascii_letters, max_size=3), min_size=n, max_size=n),
            st.lists(st.integers(-5, 5), min_size=n, max_size=n),
        )
    )
    assert_same_content(to_arrays(X[::-1], y, groups), X[::-1], y, groups)


@quick
@given(
    targets=st.lists(st.one_of(st.floats(), st.none()), min_size=3, max_size=3),
    subjects=st.lists(label, min_size=3, max_size=3),
)
def test_epochs_with_any_metadata(targets, subjects):
    metadata = pd.DataFrame(
        {"target": pd.Series(targets), "subject": pd.Series(subjects)}
    )
    epochs = mne.EpochsArray(
        np.ones((3, 2, 4)), mne.create_info(2, 10.0, "eeg"), metadata=metadata,
        verbose="error",
    )  # fmt: skip
    found = answer(lambda: to_arrays(epochs), "y must", "y is", "groups")
    if found is not None:
        np.testing.assert_array_equal(found[0], np.full((3, 2, 4), 1e6, np.float32))
        assert list(found[2]) == subjects


@quick
@given(X=strided(), groups=groups_of_any_kind)
def test_subject_windows(X, groups):
    windows = answer(lambda: SubjectWindows(X, groups), "X", "groups")
    if windows is not None:
        assert windows.shape == X.shape
        assert list(windows.groups) == list(groups)


@quick
@given(data=st.data(), n=st.integers(0, 6))
def test_rows_of_subject_windows_are_those_of_the_array(data, n):
    X = np.arange(n * 6).reshape(n, 2, 3)
    windows = SubjectWindows(X, [f"s{i}" for i in range(n)])
    key = data.draw(
        st.one_of(
            hnp.basic_indices((n,), allow_newaxis=False, allow_ellipsis=False)
            if n
            else st.just(slice(None)),
            st.lists(st.integers(-n, n - 1), max_size=4).map(
                lambda rows: np.array(rows, dtype=int)
            )
            if n
            else st.just(np.array([], dtype=int)),
            hnp.arrays(bool, n),
        )
    )
    key = key[0] if isinstance(key, tuple) and len(key) == 1 else key
    if isinstance(key, tuple):
        return
    np.testing.assert_array_equal(np.asarray(windows[key]), X[key])
    if np.ndim(X[key]) == 3:
        np.testing.assert_array_equal(
            np.asarray(windows[key].groups), np.array([f"s{i}" for i in range(n)])[key]
        )


@quick
@given(
    groups=st.one_of(
        st.lists(st.sampled_from("abcd"), max_size=9),
        st.lists(st.integers(0, 4), max_size=9),
        st.lists(label, max_size=5),
    ),
    valid_size=st.one_of(
        st.floats(), st.integers(-1, 9), st.sampled_from([None, "half", True, [1]])
    ),
)
def test_subject_split(groups, valid_size):
    dataset = Dataset(np.zeros((len(groups), 1, 1)), np.zeros(len(groups)))
    split = SubjectSplit(valid_size, random_state=0)
    found = answer(
        lambda: split(dataset, groups=groups), "groups", "subjects", "valid_size"
    )
    if found is not None:
        train, valid = (list(part.indices) for part in found)
        assert sorted(train + valid) == list(range(len(groups)))
        assert not {groups[i] for i in train} & {groups[i] for i in valid}
        assert train
        assert valid


@quick
@given(
    X=strided(dtypes=["f2", "f4", "f8", "i4", "u1"]),
    probability=st.one_of(st.floats(), st.sampled_from([0, 1, "1", None])),
    max_shift=st.one_of(st.floats(), st.sampled_from([0, 1, 0.5, "x", None])),
)
def test_time_shift(X, probability, max_shift):
    made = answer(
        lambda: TimeShift(probability, max_shift, random_state=0),
        "probability",
        "max_shift",
    )
    if made is None:
        made = TimeShift(1.0, 0.5, random_state=0)
    X = torch.tensor(X.copy())
    shifted = answer(lambda: made(X), "X must")
    if shifted is not None:
        assert shifted.dtype == X.dtype
        assert shifted.shape == X.shape
        first, second = (t.sort(-1).values.numpy() for t in (X, shifted))
        np.testing.assert_array_equal(first, second)


@quick
@given(y_true=targets_of_any_kind, y_pred=targets_of_any_kind)
def test_metrics_of_anything(y_true, y_pred):
    for normalization in ("std", "range"):
        error = answer(
            lambda n=normalization: normalized_root_mean_squared_error(
                y_true, y_pred, normalization=n
            ),
            "y_true",
            "y_pred",
        )
        assert error is None or error >= 0
    r = answer(lambda: pearson_correlation(y_true, y_pred), "y_true", "y_pred")
    assert r is None or math.isnan(r) or abs(r) < 1 + 1e-9


@quick
@given(
    data=st.data(),
    shape=st.tuples(st.integers(2, 8), st.integers(1, 3)),
    scale=st.floats(1e-3, 1e3),
)
def test_metrics_match_their_formulas(data, shape, scale):
    elements = st.floats(-100, 100).map(lambda value: round(value, 3))
    y, p = (data.draw(hnp.arrays("f8", shape, elements=elements)) for _ in range(2))
    if (np.ptp(y, axis=0) == 0).any():
        with pytest.raises(ValueError, match="y_true is constant"):
            normalized_root_mean_squared_error(y, p)
        return
    error = normalized_root_mean_squared_error(y, p)
    by_hand = np.sqrt(((y - p) ** 2).mean(0)) / y.std(0)
    assert error == pytest.approx(by_hand.mean())
    # Units and offsets do not matter, and the mean predictor scores 1.
    moved = normalized_root_mean_squared_error(scale * y + 1, scale * p + 1)
    assert moved == pytest.approx(error, rel=1e-6, abs=1e-6)
    mean = np.broadcast_to(y.mean(0), y.shape)
    assert normalized_root_mean_squared_error(y, mean) == pytest.approx(1)


json_values = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.text(max_size=5), inner, max_size=3),
    ),
    max_leaves=5,
)
FIELDS = load_config("challenge_1").model_dump(exclude_unset=True)


@quick
@given(data=st.data())
def test_configurations_with_one_value_changed(data):
    config = load_config("challenge_1").model_dump(exclude_unset=True)
    section = data.draw(st.sampled_from(sorted(config)))
    value = data.draw(json_values)
    name = section
    if isinstance(config[section], dict):
        name = data.draw(st.sampled_from([*sorted(config[section]), "unknown"]))
        config[section][name] = value
    else:
        config[section] = value
    found = answer(lambda: load_config(config), name, section)
    if found is not None:
        kept = getattr(found, section)
        kept = getattr(kept, name, value) if name != section else kept
        assert kept == value or str(kept) == str(value)


@quick
@given(config=st.one_of(json_values, st.text(), st.text().map(lambda t: t + ".json")))
def test_configurations_from_anything(config):
    names = ["config", "TrainingConfig", str(config), repr(config)]
    errors = (ValueError, TypeError, FileNotFoundError)
    found = answer(lambda: load_config(config), *names, error_types=errors)
    assert found is None or isinstance(found, TrainingConfig)


@quick
@given(
    device=st.one_of(
        st.text(max_size=8),
        st.from_regex(
            r"(cpu|cuda|rocm|mps|hip|auto|xpu)(:-?[0-9]{0,3})?", fullmatch=True
        ),
        st.integers(),
        st.none(),
    )
)
def test_device_strings(device):
    errors = (ValueError, RuntimeError)
    found = answer(lambda: resolve_device(device), "device", error_types=errors)
    if found is not None:
        torch.zeros(1, device=found)


# Windows of recordings


def recording(n_seconds=6.0, stimuli=(1.0, 3.0), responses=(1.5, 3.4)):
    info = mne.create_info(["C3", "C4"], 20.0, "eeg")
    data = np.random.default_rng(0).normal(size=(2, int(20 * n_seconds)))
    raw = mne.io.RawArray(data * 1e-6, info, verbose="error")
    onsets = [*stimuli, *responses]
    names = ["go"] * len(stimuli) + ["press"] * len(responses)
    raw.set_annotations(mne.Annotations(onsets, 0.0, names))
    return raw


@quick
@given(
    onsets=st.lists(st.floats(0, 9), max_size=5),
    responses=st.lists(st.floats(0, 9), max_size=5),
)
def test_response_times_pair_each_stimulus_with_the_next_response(onsets, responses):
    onsets, responses = np.sort(onsets), np.sort(responses)
    times = response_times(onsets, responses)
    assert len(times) == len(onsets)
    ends = [*onsets[1:], math.inf][: len(onsets)]
    for onset, end, time in zip(onsets, ends, times, strict=True):
        following = [r - onset for r in responses if onset <= r < end]
        assert math.isnan(time) or time >= 0
        assert math.isnan(time) != bool(following)
        if following:
            assert time == pytest.approx(min(following))


seconds = st.one_of(
    st.floats(0.1, 9), st.floats(), st.sampled_from([0, -1, "4", None, 4, 1e-9, 1e300])
)


def recordings():
    descriptions = [{"subject": name, "target": 1.0} for name in "ab"]
    return BaseConcatDataset(
        [RawDataset(recording(), pd.Series(text)) for text in descriptions]
    )


@settings(quick, max_examples=40)
@given(window_seconds=seconds, stride_seconds=seconds)
def test_windows_of_any_length(window_seconds, stride_seconds):
    found = answer(
        lambda: subject_target_windows(
            recordings(), "target", window_seconds=window_seconds,
            stride_seconds=stride_seconds,
        ), "window_seconds", "stride_seconds",
    )  # fmt: skip
    if found is not None:
        n_times = round(20 * window_seconds)
        stride = n_times if stride_seconds is None else round(20 * stride_seconds)
        starts = range(0, 120 - n_times + 1, stride)
        assert len(found) == 2 * len(starts)
        one = recording().get_data()
        for window, start in zip(found.datasets[0], starts, strict=True):
            np.testing.assert_allclose(
                window[0], one[:, start : start + n_times], rtol=1e-6
            )


@settings(quick, max_examples=40)
@given(
    window_seconds=seconds,
    offset_seconds=st.one_of(
        st.floats(-2, 2), st.floats(), st.sampled_from(["0", None])
    ),
    limits=st.one_of(
        st.tuples(st.floats(), st.floats()),
        st.sampled_from([(0.0, math.inf), None, "01", (1,), (0, "x"), 3]),
    ),
)
def test_response_windows_of_any_length(window_seconds, offset_seconds, limits):
    found = answer(
        lambda: response_time_windows(
            recordings(), stimulus="go", response="press", limits=limits,
            window_seconds=window_seconds, offset_seconds=offset_seconds,
        ), "window_seconds", "offset_seconds", "limits",
    )  # fmt: skip
    if found is not None:
        times = found.get_metadata()["response_time"]
        assert set(times.round(2)) <= {0.5, 0.4}
        assert all(
            window[0].shape == (2, round(20 * window_seconds)) for window in found
        )
