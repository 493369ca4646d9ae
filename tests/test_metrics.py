"""Metrics against their formulas in NumPy and SciPy."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import pearsonr
from sklearn.dummy import DummyRegressor
from sklearn.model_selection import KFold, cross_validate

from braindecode_sam import SCORING
from braindecode_sam import normalized_root_mean_squared_error as nrmse
from braindecode_sam.metrics import pearson_correlation

values = st.floats(-1e3, 1e3)
SHAPES = [(9,), (9, 1), (9, 3)]


@given(data=st.data(), shape=st.sampled_from(SHAPES))
def test_equals_the_formula(data, shape):
    y_true = data.draw(arrays(float, shape, elements=values))
    y_pred = data.draw(arrays(float, shape, elements=values))
    spread = {"std": y_true.std(axis=0), "range": np.ptp(y_true, axis=0)}
    for normalization, s in spread.items():
        if np.all(s > 1e-6):
            raw = np.sqrt(np.mean((y_true - y_pred) ** 2, axis=0)) / s
            options = {"normalization": normalization}
            assert nrmse(y_true, y_pred, **options) == pytest.approx(raw.mean())
            found = nrmse(y_true, y_pred, multioutput="raw_values", **options)
            np.testing.assert_allclose(found, np.atleast_1d(raw))


@given(arrays(float, (9,), elements=values), values, st.floats(0.1, 10))
def test_mean_scores_one_and_scale_does_not_matter(y, offset, scale):
    if np.ptp(y) > 1:
        assert nrmse(y, np.full(9, y.mean())) == pytest.approx(1)
        p = y[::-1]
        assert nrmse(y, p) == pytest.approx(
            nrmse(scale * y + offset, scale * p + offset)
        )


def test_column_and_flat_are_the_same():
    y = np.arange(5.0)
    assert nrmse(y, y[:, None] + 1) == nrmse(y[:, None], y + 1) == nrmse(y, y + 1)
    assert pearson_correlation(y, y[:, None]) == pytest.approx(1)


@given(arrays(float, (9, 2), elements=values), arrays(float, (9, 2), elements=values))
def test_pearson_equals_scipy(y_true, y_pred):
    if (np.ptp(y_true, axis=0) > 1e-3).all() and (np.ptp(y_pred, axis=0) > 1e-3).all():
        expected = np.mean([pearsonr(y_true[:, i], y_pred[:, i])[0] for i in (0, 1)])
        assert pearson_correlation(y_true, y_pred) == pytest.approx(expected, abs=1e-7)


def test_pearson_of_a_constant_is_nan():
    assert math.isnan(pearson_correlation([1.0, 2.0], [3.0, 3.0]))


def test_scoring_in_cross_validate():
    y = np.random.default_rng(0).normal(size=40)
    scores = cross_validate(
        DummyRegressor(), np.zeros((40, 1)), y, scoring=SCORING, cv=KFold(4)
    )
    folds = [y[test] for _, test in KFold(4).split(y)]
    means = [np.delete(y, test).mean() for _, test in KFold(4).split(y)]
    expected = [nrmse(f, np.full(10, m)) for f, m in zip(folds, means, strict=True)]
    np.testing.assert_allclose(scores["test_neg_nrmse"], -np.array(expected))
    ranges = [np.ptp(f) / f.std() for f in folds]
    np.testing.assert_allclose(
        scores["test_neg_nrmse_range"] * ranges, scores["test_neg_nrmse"]
    )
    assert np.isnan(scores["test_pearsonr"]).all()
    assert (scores["test_r2"] <= 0).all()


@pytest.mark.parametrize(
    ("y_true", "y_pred", "options", "message"),
    [
        ([2.0, 2.0], [1.0, 3.0], {}, r"y_true is constant \(output 0, value 2.0"),
        ([[1, 5], [2, 5]], [[1, 5], [2, 5]], {}, "constant .output 1.*std is 0"),
        ([0.1] * 3, [1.0] * 3, {}, "constant"),  # whose std is not exactly 0
        ([1.0, 2.0], [1.0, 2.0], {"normalization": "iqr"}, "'std', 'range', got 'iqr'"),
        ([1.0, 2.0], [1.0, 2.0], {"multioutput": "x"}, "multioutput must be one of"),
        ([1.0, math.nan], [1.0, 2.0], {}, "y_true contains NaN"),
        ([1.0, 2.0], [1.0, math.inf], {}, "infinity"),
        ([1.0, 2.0], [1.0], {}, "y_true and y_pred must have the same shape"),
    ],
)
def test_refuses(y_true, y_pred, options, message):
    with pytest.raises(ValueError, match=message):
        nrmse(y_true, y_pred, **options)


def test_pearson_refuses_shapes_that_differ():
    with pytest.raises(ValueError, match=r"same shape, got \(2, 1\) and \(3, 1\)"):
        pearson_correlation([1.0, 2.0], [1.0, 2.0, 3.0])
