"""SubjectScaler compared with StandardScaler, and inside cross_validate."""

import pickle
import tracemalloc
from typing import ClassVar

import numpy as np
import pytest
from braindecode import EEGRegressor
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from mne.utils import check_version
from sklearn import config_context
from sklearn.base import clone
from sklearn.linear_model import Ridge
from sklearn.model_selection import GroupKFold, cross_val_predict, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.utils.validation import check_is_fitted

from braindecode_sam import SAM, SCORING
from braindecode_sam.datasets import SubjectScaler, SubjectWindows
from braindecode_sam.model_selection import SubjectSplit

RNG = np.random.default_rng(0)
GROUPS = np.repeat(list("abcdef"), 6)
SIZES = RNG.uniform(1, 30, (6, 3, 1)).repeat(6, axis=0)
X = (SIZES * RNG.normal(size=(36, 3, 120)) + SIZES).astype(np.float32)
Y = RNG.normal(size=36).astype(np.float32)


def by_subject(X, groups, **options):
    """Scale each subject with scikit-learn."""
    scaled = np.empty(X.shape)
    for subject in np.unique(groups):
        rows = X[groups == subject].astype(float)
        columns = rows.transpose(0, 2, 1).reshape(-1, X.shape[1])
        columns = StandardScaler(**options).fit_transform(columns)
        n, n_chans, n_times = rows.shape
        back = columns.reshape(n, n_times, n_chans).transpose(0, 2, 1)
        scaled[groups == subject] = back
    return scaled


def flat(X):
    return np.asarray(X).reshape(len(X), -1)


@given(
    X=arrays(np.float32, (7, 2, 5), elements=st.floats(-99, 99, width=32)),
    groups=st.one_of(
        st.lists(st.sampled_from("abc"), min_size=7, max_size=7),
        st.lists(st.integers(0, 9), min_size=7, max_size=7),
    ),
    with_mean=st.booleans(),
    with_std=st.booleans(),
)
def test_as_standard_scaler_for_each_subject(X, groups, with_mean, with_std):
    scaler = SubjectScaler(with_mean=with_mean, with_std=with_std)
    found = scaler.fit_transform(X.astype(float), groups=groups)
    options = {"with_mean": with_mean, "with_std": with_std}
    expected = by_subject(X, np.array(groups), **options)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


def test_many_windows_are_one_subject():
    for n in (1, 16, 17):
        X = np.random.normal(3, 5, (n, 2, 30))
        mean, std = (f(axis=(0, 2), keepdims=True) for f in (X.mean, X.std))
        found = SubjectScaler().transform(X, ["a"] * n)
        np.testing.assert_allclose(found, (X - mean) / std, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("dtype", "gives", "offset", "tolerance"),
    [
        ("f2", "f2", 0, 2e-3),
        ("i2", "f8", 0, 1e-6),
        (">f4", ">f4", 0, 1e-6),
        ("f4", "f4", 3e4, 1e-6),  # far from zero
    ],
)
def test_dtypes(dtype, gives, offset, tolerance):
    values = (X + offset).astype(dtype)
    found = SubjectScaler().transform(values, GROUPS)
    assert found.dtype == np.dtype(gives)
    expected = by_subject(values, GROUPS)
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("value", [0.1, -1e6])
def test_constant_channels_become_zeros(value):
    constant = X.astype(float)
    constant[GROUPS == "b", 1] = value
    found = SubjectScaler().transform(constant, GROUPS)
    assert (found[GROUPS == "b", 1] == 0).all()
    others = (GROUPS != "b")[:, None] | (np.arange(3) != 1)
    np.testing.assert_array_equal(
        found[others], SubjectScaler().transform(X.astype(float), GROUPS)[others]
    )
    kept = SubjectScaler(with_mean=False).transform(constant, GROUPS)
    assert (kept[GROUPS == "b", 1] == value).all()


def test_subject_windows_give_subject_windows_and_stay_as_they_are():
    before, rows = X.copy(), np.random.permutation(36)[:20]
    windows = SubjectWindows(X, GROUPS)
    scaled = SubjectScaler().fit_transform(windows[rows])
    assert isinstance(scaled, SubjectWindows)
    np.testing.assert_array_equal(scaled.groups, GROUPS[rows])
    expected = SubjectScaler().transform(X[rows], GROUPS[rows])
    np.testing.assert_array_equal(np.asarray(scaled), expected)
    assert not np.shares_memory(np.asarray(SubjectScaler().transform(windows)), X)
    np.testing.assert_array_equal(X, before)


def test_one_copy_is_made_of_what_is_large():
    large = np.zeros((1000, 8, 200), dtype=np.float32)
    groups = np.repeat(np.arange(10), 100)
    for data, theirs in ((SubjectWindows(large, groups)[::-1], None), (large, groups)):
        tracemalloc.start()
        SubjectScaler().transform(data, theirs)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 1.3 * large.nbytes


def test_refuses_windows_of_nobody():
    for data, groups, message in (
        (X, None, r"got ndarray without groups; pass X=SubjectWindows\(X, groups\)"),
        (SubjectWindows(X, GROUPS), GROUPS[::-1], "groups must be None for SubjectW"),
        (X, GROUPS[:5], "same length, got X: 36, groups: 5"),
        (X[0], GROUPS[:3], r"X must have the shape .*got \(3, 120\)"),
        (X[:0], [], r"no empty dimension, got \(0, 3, 120\)"),
        (X, [None, *GROUPS[1:]], "subject for every window, got None for window 0"),
    ):
        with pytest.raises(ValueError, match=message):
            SubjectScaler().fit(data).transform(data, groups)
        with pytest.raises(ValueError, match=message):
            SubjectScaler().fit_transform(data, groups=groups)


def test_refuses_values_that_are_not_finite_and_options():
    spoiled = X.copy()
    spoiled[13, 1, 7] = np.inf
    with pytest.raises(ValueError, match="X must be finite, but window 13 holds NaN"):
        SubjectScaler().transform(spoiled, GROUPS)
    with pytest.raises(ValueError, match="X must be finite, but window 22 holds NaN"):
        SubjectScaler().transform(SubjectWindows(spoiled, GROUPS)[::-1])
    for option in ("with_mean", "with_std"):
        message = f"{option} must be one of True, False, got 2"
        with pytest.raises(ValueError, match=message):
            SubjectScaler(**{option: 2}).fit_transform(X, groups=GROUPS)


def test_is_an_estimator():
    scaler = SubjectScaler(with_std=False)
    check_is_fitted(scaler)
    assert scaler.get_params() == {"with_mean": True, "with_std": False}
    expected = scaler.transform(X, GROUPS)
    for other in (clone(scaler), pickle.loads(pickle.dumps(scaler))):
        np.testing.assert_array_equal(other.transform(X, GROUPS), expected)
    scaler.set_params(with_std=True)
    assert scaler.transform(X, GROUPS).std() == pytest.approx(1, abs=1e-3)
    assert repr(SubjectScaler(with_mean=False)) == "SubjectScaler(with_mean=False)"


def test_in_a_pipeline_each_fold_is_scaled_by_its_own_windows():
    features = FunctionTransformer(flat)
    pipeline = make_pipeline(SubjectScaler(), features, Ridge(10.0))
    windows, cv = SubjectWindows(X, GROUPS), GroupKFold(3)
    found = cross_val_predict(pipeline, windows, Y, groups=GROUPS, cv=cv)
    expected = np.empty(36)
    for train, test in cv.split(X, Y, GROUPS):
        ridge = Ridge(10.0).fit(flat(by_subject(X[train], GROUPS[train])), Y[train])
        expected[test] = ridge.predict(flat(by_subject(X[test], GROUPS[test])))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(
    not check_version("sklearn", "1.8"),
    reason="before, a pipeline's score passed no groups to transform",
)
def test_arrays_with_groups_by_metadata_routing():
    cv = GroupKFold(3)
    plain = make_pipeline(SubjectScaler(), FunctionTransformer(flat), Ridge(10.0))
    expected = cross_validate(plain, SubjectWindows(X, GROUPS), Y, groups=GROUPS, cv=cv)
    with config_context(enable_metadata_routing=True):
        scaler = SubjectScaler().set_fit_request(groups=True)
        scaler.set_transform_request(groups=True)
        routed = make_pipeline(scaler, FunctionTransformer(flat), Ridge(10.0))
        found = cross_validate(routed, X, Y, params={"groups": GROUPS}, cv=cv)
    np.testing.assert_array_equal(found["test_score"], expected["test_score"])


class Scaled(SubjectScaler):
    """Records the scaled subjects."""

    seen: ClassVar[list] = []

    def transform(self, X, groups=None):
        scaled = super().transform(X, groups)
        Scaled.seen.append(set(scaled.groups))
        return scaled


def test_subjects_stay_apart_inside_of_the_net():
    Scaled.seen.clear()
    net = EEGRegressor(
        "EEGNet", optimizer=SAM, max_epochs=1, batch_size=6, verbose=0,
        train_split=SubjectSplit(1, random_state=0),
    )  # fmt: skip
    results = cross_validate(
        make_pipeline(Scaled(), net), SubjectWindows(X, GROUPS), Y,
        groups=GROUPS, cv=GroupKFold(3), scoring=SCORING, error_score="raise",
        return_estimator=True,
    )  # fmt: skip
    assert np.isfinite(results["test_neg_nrmse"]).all()
    assert [len(subjects) for subjects in Scaled.seen] == [4, 2] * 3
    for pipeline in results["estimator"]:
        assert "valid_loss" in pipeline[-1].history[-1]
