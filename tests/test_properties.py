"""Arbitrary input gives a correct result, or an error that names the argument.

The inputs are valid but for one or two parts, since a check of the first bad argument
would hide what happens to the others.
"""

import math

import mne
import numpy as np
import pandas as pd
import pytest
from braindecode.datasets import BaseConcatDataset, RawDataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.base import BaseEstimator, RegressorMixin
from skorch.dataset import Dataset

from braindecode_sam import SCORING, load_config, normalized_root_mean_squared_error
from braindecode_sam.datasets import SubjectWindows, to_arrays
from braindecode_sam.datasets.windows import subject_target_windows
from braindecode_sam.model_selection import SubjectSplit

# Numbers of any scale.
pytestmark = pytest.mark.filterwarnings("ignore:X has a standard deviation")

quick = settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])

N = 5  # windows
REAL = ["f2", "f4", "f8", ">f4", "i1", "i8", "u2", "?"]
OTHER = ["c8", "U2", "S3", "M8[s]", "O"]


@st.composite
def strided(draw, shape=(N,), dtypes=tuple(REAL + OTHER)):
    """Arrays of any dtype and layout."""
    dtype = np.dtype(draw(st.sampled_from(dtypes)))
    labels = st.sampled_from([None, 1, 2.5, "1", math.nan, "a"])
    elements = labels if dtype.kind == "O" else None
    array = draw(hnp.arrays(dtype, shape, elements=elements))
    layouts = [np.copy, np.asfortranarray, np.flipud] if array.ndim else [np.copy]
    return draw(st.sampled_from(layouts))(array)


def mostly(valid, *others):
    """Draw a valid value more often than not."""
    return st.one_of(valid, valid, valid, st.one_of(*others))


label = st.one_of(
    st.integers(-2, 3),
    st.sampled_from(["a", "b", "1", "nan", "", None, math.nan, pd.NA, (), True]),
    st.floats(),
)
several = {"min_size": N, "max_size": N}
any_shape = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=N)
any_windows = mostly(
    hnp.arrays("f8", (N, 2, 3), elements=st.floats(-1e3, 1e3)),
    strided((N, 2, 3), REAL),
    strided(any_shape),
)
any_groups = mostly(
    st.one_of(
        st.lists(st.sampled_from("abc"), **several),
        st.lists(st.integers(0, 3), **several),
    ),
    st.lists(label, max_size=6),
    strided(),
)
any_targets = mostly(
    st.one_of(
        st.permutations(range(N)),
        st.permutations("abcde"),
        hnp.arrays("f8", (N, 2), elements=st.floats(-1e3, 1e3)),
    ),
    st.lists(st.floats(), **several),
    st.lists(label, **several),
    strided(any_shape),
)


def answer(function, *names):
    """Return the result, or None if the input was refused by name."""
    try:
        return function()
    except (ValueError, TypeError) as error:
        if not any(name in str(error) for name in names):
            raise
        return None


@quick
@given(any_windows, any_targets, any_groups)
def test_arrays_hold_what_was_given(X, y, groups):
    windows = answer(lambda: SubjectWindows(X, groups), "X", "groups")
    if windows is not None:
        assert windows.shape == X.shape
        assert list(windows.groups) == list(groups)
    found = answer(lambda: to_arrays(X, y, groups), "X", "y", "groups")
    if found is None:
        return
    assert found[0].dtype == np.float32
    assert len(found[0]) == len(found[1]) == len(found[2]) > 0
    np.testing.assert_array_equal(found[0], np.asarray(X).astype(np.float32))
    assert np.isfinite(found[0]).all()
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
    are_text = [[isinstance(x, str) for x in names] for names in (found[2], groups)]
    assert are_text[0] == are_text[1]


@quick
@given(
    any_groups,
    mostly(st.floats(0.1, 0.9), st.floats(), st.sampled_from([3, -1, None, "half"])),
)
def test_no_subject_is_on_both_sides_of_a_split(groups, valid_size):
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


class Oracle(RegressorMixin, BaseEstimator):
    """Predicts what it gets."""

    def predict(self, X):
        return X


# SciPy warns of correlations that are nearly undefined.
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@quick
@given(any_targets, any_targets)
def test_metrics_are_in_their_ranges(y_true, y_pred):
    for normalization in ("std", "range"):
        error = answer(
            lambda n=normalization: normalized_root_mean_squared_error(
                y_true, y_pred, normalization=n
            ),
            "y_true",
            "y_pred",
        )
        assert error is None or error >= 0
    r = answer(
        lambda: SCORING["pearsonr"](Oracle(), y_pred, y_true), "y_true", "y_pred"
    )
    assert r is None or math.isnan(r) or abs(r) < 1 + 1e-9


scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)
)
json_values = st.one_of(
    scalars,
    st.lists(scalars, max_size=3),
    st.dictionaries(st.text(max_size=5), scalars, max_size=3),
)
CONFIG = load_config("challenge_1").model_dump(exclude_unset=True)


@quick
@given(st.sampled_from(sorted(CONFIG)), json_values, st.data())
def test_configurations_with_one_value_changed(section, value, data):
    name, config = section, dict(CONFIG)
    if isinstance(config[section], dict):
        name = data.draw(st.sampled_from([*sorted(config[section]), "unknown"]))
        config[section] = config[section] | {name: value}
    else:
        config[section] = value
    found = answer(lambda: load_config(config), name, section)
    if found is not None:
        kept = getattr(found, section)
        kept = getattr(kept, name, value) if name != section else kept
        assert kept == value or str(kept) == str(value)


SIGNAL = np.random.default_rng(0).normal(size=(2, 120)) * 1e-6


def recordings():
    info = mne.create_info(["C3", "C4"], 20.0, "eeg")
    return BaseConcatDataset(
        [
            RawDataset(
                mne.io.RawArray(SIGNAL, info, verbose="error"),
                pd.Series({"subject": name, "target": 1.0}),
            )
            for name in "ab"
        ]
    )


seconds = mostly(
    st.floats(0.1, 2.5), st.floats(), st.sampled_from([0, -1, "4", None, 1e-9, 1e300])
)


@settings(quick, max_examples=20)
@given(seconds, seconds)
def test_windows_of_any_length(window_seconds, stride_seconds):
    found = answer(
        lambda: subject_target_windows(
            recordings(), "target", window_seconds=window_seconds,
            stride_seconds=stride_seconds,
        ), "window_seconds", "stride_seconds",
    )  # fmt: skip
    if found is not None:
        n_times = round(20 * window_seconds)
        stride = (
            n_times if stride_seconds is None else round(min(20 * stride_seconds, 1e9))
        )
        starts = range(0, 120 - n_times + 1, stride)
        assert len(found) == 2 * len(starts)
        for window, start in zip(found.datasets[0], starts, strict=True):
            expected = SIGNAL[:, start : start + n_times]
            np.testing.assert_allclose(window[0], expected, rtol=1e-6)
