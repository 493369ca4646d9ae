"""Statistics over subjects compared with NumPy, scikit-learn and simulations."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats
from sklearn import metrics

from braindecode_sam.comparison import paired_comparison
from braindecode_sam.comparison._statistics import (
    bootstrap_interval,
    compare_losses,
    holm,
    smallest_detectable,
    subject_means,
)

GROUPS = np.repeat(np.arange(8), 5)


def labels_and_probabilities(n_classes, random_state=0):
    rng = np.random.default_rng(random_state)
    y = np.tile(np.arange(n_classes), 40)[:40]
    return rng.permutation(y), rng.dirichlet(np.ones(n_classes), size=(2, 40))


@given(
    hnp.arrays(float, st.integers(1, 12), elements=st.floats(0, 1, allow_nan=False)),
)
def test_holm_is_the_step_down_procedure(p):
    m = len(p)
    expected = np.empty(m)
    largest = 0.0
    for rank, i in enumerate(sorted(range(m), key=lambda i: p[i])):
        largest = max(largest, min(1.0, (m - rank) * p[i]))
        expected[i] = largest
    np.testing.assert_allclose(holm(p), expected)


def test_holm_does_not_count_what_was_not_tested():
    np.testing.assert_array_equal(holm([0.01, np.nan, 0.04]), [0.02, np.nan, 0.04])


def test_the_interval_is_that_of_resampled_subjects():
    d = np.random.default_rng(1).gamma(1.0, size=20)
    rng = np.random.default_rng(2)
    means = d[rng.integers(0, 20, (100_000, 20))].mean(axis=1)
    expected = np.quantile(means, [0.05, 0.95])
    found = bootstrap_interval(d, confidence=0.9)
    np.testing.assert_allclose(found, expected, atol=0.03 * np.ptp(expected))


@pytest.mark.parametrize("n_subjects", [2, 5, 9])
def test_the_p_value_counts_all_sign_flips(n_subjects):
    d = np.random.default_rng(n_subjects).normal(0.4, 1, n_subjects)
    flips = np.array(list(itertools.product([-1, 1], repeat=n_subjects)))
    means = (flips * d).mean(axis=1)
    expected = np.mean(np.abs(means) >= abs(d.mean()) * (1 - 1e-12))
    found = compare_losses(
        d, np.zeros(n_subjects), np.arange(n_subjects), 0.95, 0.05, 0
    )
    assert found.p_value == pytest.approx(expected)


def test_without_an_effect_p_values_are_uniform():
    rng = np.random.default_rng(3)
    p = np.array(
        [
            compare_losses(d, np.zeros(9), np.arange(9), 0.95, 0.05, 0).p_value
            for d in rng.standard_t(3, size=(400, 9))
        ]
    )
    assert stats.kstest(p, "uniform").pvalue > 0.01
    assert np.mean(p <= 0.05) < 0.08


def test_the_smallest_detectable_difference_is_found_four_times_out_of_five():
    rng = np.random.default_rng(4)
    d = rng.normal(size=15)
    d = (d - d.mean()) / d.std(ddof=1)
    shift = smallest_detectable(d, alpha=0.05)
    samples = rng.normal(shift, 1, size=(20_000, 15))
    found = stats.ttest_1samp(samples, 0, axis=1).pvalue < 0.05
    assert found.mean() == pytest.approx(0.8, abs=0.01)
    assert smallest_detectable(d, alpha=0.01) > shift
    assert smallest_detectable(3 * d) == pytest.approx(3 * shift)


def test_a_planted_difference_is_found_and_none_is_not():
    rng = np.random.default_rng(5)
    y = rng.normal(size=120)
    groups = np.repeat(np.arange(12), 10)
    good, bad = (y + s * rng.normal(size=120) for s in (0.5, 1.0))
    found = paired_comparison(good, bad, y, groups)
    assert found.p_value < 0.01
    assert found.ci_high < 0
    assert -found.difference > found.smallest_detectable
    other = paired_comparison(bad, good, y, groups)
    assert other.difference == pytest.approx(-found.difference)
    same = paired_comparison(good, good, y, groups)
    assert (same.difference, same.p_value, same.n_better) == (0, 1, 0)


@pytest.mark.parametrize(
    ("loss", "reference"),
    [
        (None, lambda y, p: metrics.mean_squared_error(y, p) / np.var(y_all())),
        ("nmse", lambda y, p: metrics.mean_squared_error(y, p) / np.var(y_all())),
        ("squared_error", metrics.mean_squared_error),
        ("absolute_error", metrics.mean_absolute_error),
        (lambda y, p: np.abs(y - p) ** 3, lambda y, p: np.mean(np.abs(y - p) ** 3)),
    ],
)
def test_losses_of_a_regression(loss, reference):
    y = y_all()
    a, b = y + 0.3, y * 0.5
    found = paired_comparison(a, b, y, GROUPS, loss=loss)
    expected = [reference(y[s == GROUPS], a[s == GROUPS]) for s in range(8)]
    np.testing.assert_allclose(found.losses_a, expected)


def y_all():
    return np.random.default_rng(6).normal(size=40)


def test_several_targets_count_alike():
    rng = np.random.default_rng(7)
    y = rng.normal(size=(40, 2)) * [1, 1000]
    a, b = y + np.array([0.1, 100]), y
    found = paired_comparison(a, b, y, GROUPS)
    expected = np.mean([0.01 / y[:, 0].var(), 1e4 / y[:, 1].var()])
    assert found.difference == pytest.approx(expected)


@pytest.mark.parametrize("names", [None, "abc", [1, 5, 7]])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_losses_of_a_classification(n_classes, names):
    codes, (a, b) = labels_and_probabilities(n_classes)
    y = codes if names is None else np.array(list(names))[codes]
    found = paired_comparison(a, b, y, GROUPS)
    expected = [
        metrics.log_loss(codes[s == GROUPS], a[s == GROUPS], labels=range(n_classes))
        for s in range(8)
    ]
    np.testing.assert_allclose(found.losses_a, expected)
    errors = paired_comparison(a, b, y, GROUPS, loss="zero_one")
    expected = [np.mean((a.argmax(1) != codes)[s == GROUPS]) for s in range(8)]
    np.testing.assert_allclose(errors.losses_a, expected)


def test_one_column_is_the_second_labels_probability():
    y, (a, b) = labels_and_probabilities(2)
    two = paired_comparison(a, b, y, GROUPS)
    one = paired_comparison(a[:, 1], b[:, 1], y, GROUPS, loss="log_loss")
    np.testing.assert_allclose(one.losses_a, two.losses_a)


def test_seeds_are_averaged():
    y = y_all()
    seeds = [y + 0.1, y + 0.5]
    found = paired_comparison(seeds, y, y, GROUPS, loss="squared_error")
    assert found.difference == pytest.approx((0.01 + 0.25) / 2)


def test_windows_in_no_fold_are_left_out():
    y = y_all()
    a, b = y + 0.1, y + 0.2
    a[:10] = b[:10] = np.nan  # the first two subjects
    found = paired_comparison(a, b, y, GROUPS)
    assert found.subjects.tolist() == [2, 3, 4, 5, 6, 7]
    expected = paired_comparison(a[10:], b[10:], y[10:], GROUPS[10:])
    assert found.difference == expected.difference
    a[12] = np.nan
    with pytest.raises(ValueError, match="only one of them predicts window 12"):
        paired_comparison(a, b, y, GROUPS)


def test_what_is_not_finite_is_not_tested():
    y = y_all()
    found = paired_comparison(
        [y, np.where(np.arange(40) == 3, np.nan, y)], y, y, GROUPS
    )
    assert np.isnan([found.difference, found.p_value, found.ci_low]).all()
    assert np.isnan(found.smallest_detectable)


def test_subject_means_are_in_the_order_of_the_subjects():
    means = subject_means(np.array([1.0, 2.0, 6.0]), np.array(["b", "a", "a"]))
    assert means.tolist() == [4, 1]


@pytest.mark.parametrize("y", [np.arange(40) % 2, (np.arange(40) % 2).astype(str)])
def test_values_and_probabilities_are_not_confused(y):
    a, b = np.random.default_rng(0).uniform(0.1, 0.9, (2, 40))
    with pytest.raises(ValueError, match=r"y holds two values, .* got loss=None"):
        paired_comparison(a, b, y, GROUPS)
    columns = [np.stack([1 - p, p], axis=1) for p in (a, b)]
    found = paired_comparison(a, b, y, GROUPS, loss="log_loss")
    expected = paired_comparison(*columns, y, GROUPS)
    assert found.difference == pytest.approx(expected.difference)


def test_an_array_of_several_seeds():
    y = y_all()
    a = y + np.random.default_rng(0).normal(size=(3, 40))
    found = paired_comparison(a[:, :, None], y, y, GROUPS)
    assert found.difference == paired_comparison(list(a), y, y, GROUPS).difference


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"groups": np.zeros(40)}, r"at least 2 subjects in the test folds, got 1: \["),
        ({"groups": GROUPS[1:]}, "must have the same length, got y: 40, groups: 39"),
        (
            {"a": np.zeros(39)},
            r"a must have a prediction .*\(40,\), got .*\(39",
        ),
        (
            {"b": np.zeros((2, 40))},
            r"b must have a prediction .* got .*\(2, 40",
        ),
        ({"loss": "mse"}, "loss must be one of 'nmse', .*, got 'mse'"),
        ({"loss": lambda y, p: 0.0}, r"loss must return an array of shape \(40,\)"),
        ({"confidence": 95}, "confidence must be between 0 and 1, got 95"),
        ({"alpha": 0.0}, "alpha must be between 0 and 1, got 0.0"),
        (
            {"a": np.zeros((40, 3))},
            "each of the 6 labels .*, got 3 columns",
        ),
    ],
)
def test_wrong_arguments_are_named(change, message):
    y = y_all().round(0)
    given = {"a": y, "b": y, "y": y, "groups": GROUPS} | change
    with pytest.raises(ValueError, match=message):
        paired_comparison(**given)
