"""Statistics over subjects compared with NumPy, scikit-learn and simulations."""

import itertools

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from braindecode_sam.comparison import paired_comparison

GROUPS = np.repeat(np.arange(8), 5)
Y = np.random.default_rng(6).normal(size=40)


def compared(differences, **options):
    """Compare losses whose differences are given, one for each subject."""
    n = len(differences)
    y, loss = np.arange(float(n)), lambda y, y_pred: y_pred
    return paired_comparison(
        differences, np.zeros(n), y, np.arange(n), loss=loss, **options
    )


def labels_and_probabilities(n_classes, random_state=0):
    rng = np.random.default_rng(random_state)
    y = np.tile(np.arange(n_classes), 40)[:40]
    return rng.permutation(y), rng.dirichlet(np.ones(n_classes), size=(2, 40))


def test_the_interval_is_that_of_resampled_subjects():
    d = np.random.default_rng(1).gamma(1.0, size=20)
    rng = np.random.default_rng(2)
    means = d[rng.integers(0, 20, (100_000, 20))].mean(axis=1)
    expected = np.quantile(means, [0.05, 0.95])
    found = compared(d, confidence=0.9)
    np.testing.assert_allclose(
        [found.ci_low, found.ci_high], expected, atol=0.03 * np.ptp(expected)
    )


@pytest.mark.parametrize("n_subjects", [2, 9])
def test_the_p_value_counts_all_sign_flips(n_subjects):
    d = np.random.default_rng(n_subjects).normal(0.4, 1, n_subjects)
    flips = np.array(list(itertools.product([-1, 1], repeat=n_subjects)))
    means = (flips * d).mean(axis=1)
    expected = np.mean(np.abs(means) >= abs(d.mean()) * (1 - 1e-12))
    assert compared(d).p_value == pytest.approx(expected)


def test_the_smallest_detectable_difference_is_found_four_times_out_of_five():
    rng = np.random.default_rng(4)
    d = rng.normal(size=15)
    d = (d - d.mean()) / d.std(ddof=1)
    shift = compared(d, alpha=0.05).smallest_detectable
    samples = rng.normal(shift, 1, size=(20_000, 15))
    found = stats.ttest_1samp(samples, 0, axis=1).pvalue < 0.05
    assert found.mean() == pytest.approx(0.8, abs=0.01)
    assert compared(d, alpha=0.01).smallest_detectable > shift
    assert compared(3 * d).smallest_detectable == pytest.approx(3 * shift)


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
        (None, lambda y, p: metrics.mean_squared_error(y, p) / np.var(Y)),
        ("squared_error", metrics.mean_squared_error),
        ("absolute_error", metrics.mean_absolute_error),
        (lambda y, p: np.abs(y - p) ** 3, lambda y, p: np.mean(np.abs(y - p) ** 3)),
    ],
)
def test_losses_of_a_regression(loss, reference):
    a, b = Y + 0.3, Y * 0.5
    found = paired_comparison(a, b, Y, GROUPS, loss=loss)
    expected = [reference(Y[s == GROUPS], a[s == GROUPS]) for s in range(8)]
    np.testing.assert_allclose(found.losses_a, expected)


def test_several_targets_count_alike():
    rng = np.random.default_rng(7)
    y = rng.normal(size=(40, 2)) * [1, 1000]
    found = paired_comparison(y + np.array([0.1, 100]), y, y, GROUPS, loss="nmse")
    expected = np.mean([0.01 / y[:, 0].var(), 1e4 / y[:, 1].var()])
    assert found.difference == pytest.approx(expected)


@pytest.mark.parametrize(("n_classes", "names"), [(2, [1, 5]), (3, ["a", "b", "c"])])
def test_losses_of_a_classification(n_classes, names):
    codes, (a, b) = labels_and_probabilities(n_classes)
    y = np.array(names)[codes]
    found = paired_comparison(a, b, y, GROUPS)
    expected = [
        metrics.log_loss(codes[s == GROUPS], a[s == GROUPS], labels=range(n_classes))
        for s in range(8)
    ]
    np.testing.assert_allclose(found.losses_a, expected)
    errors = paired_comparison(a, b, y, GROUPS, loss="zero_one")
    expected = [np.mean((a.argmax(1) != codes)[s == GROUPS]) for s in range(8)]
    np.testing.assert_allclose(errors.losses_a, expected)


@pytest.mark.parametrize("dtype", [int, str])
def test_values_and_probabilities_are_not_confused(dtype):
    y, (a, b) = labels_and_probabilities(2)
    y = y.astype(dtype)
    with pytest.raises(ValueError, match=r"y holds two values, .* got loss=None"):
        paired_comparison(a[:, 1], b[:, 1], y, GROUPS)
    # One column is the probability of the second label.
    found = paired_comparison(a[:, 1], b[:, 1], y, GROUPS, loss="log_loss")
    expected = paired_comparison(a, b, y, GROUPS)
    np.testing.assert_allclose(found.losses_a, expected.losses_a)


def test_seeds_are_averaged_in_lists_and_arrays():
    seeds = [Y + 0.1, Y + 0.5]
    found = paired_comparison(seeds, Y, Y, GROUPS, loss="squared_error")
    assert found.difference == pytest.approx((0.01 + 0.25) / 2)
    array = np.stack(seeds)[:, :, None]
    again = paired_comparison(array, Y, Y, GROUPS, loss="squared_error")
    assert again.difference == found.difference


def test_windows_in_no_fold_are_left_out():
    a, b = Y + 0.1, Y + 0.2
    a[:10] = b[:10] = np.nan  # the first two subjects
    found = paired_comparison(a, b, Y, GROUPS)
    assert found.subjects.tolist() == [2, 3, 4, 5, 6, 7]
    expected = paired_comparison(a[10:], b[10:], Y[10:], GROUPS[10:])
    assert found.difference == expected.difference
    a[12] = np.nan
    with pytest.raises(ValueError, match="only one of them predicts window 12"):
        paired_comparison(a, b, Y, GROUPS)


def test_what_is_not_finite_is_not_tested():
    seeds = [Y, np.where(np.arange(40) == 3, np.nan, Y)]
    found = paired_comparison(seeds, Y, Y, GROUPS)
    assert np.isnan([found.difference, found.p_value, found.ci_low]).all()
    assert np.isnan(found.smallest_detectable)


def test_subjects_are_sorted():
    y = np.array([0.0, 1, 2])
    found = paired_comparison([1.0, 2, 6], y, y, ["b", "a", "a"], loss=lambda y, p: p)
    assert found.subjects.tolist() == ["a", "b"]
    assert found.losses_a.tolist() == [4, 1]


def test_wrong_arguments_are_named():
    y = Y.round(0)
    for change, message in (
        ({"groups": np.zeros(40)}, r"least 2 subjects in the test folds, got 1: \["),
        ({"groups": GROUPS[1:]}, "have the same length, got y: 40, groups: 39"),
        ({"a": np.zeros(39)}, r"a must have a prediction .*\(40,\), got .*\(39"),
        ({"b": np.zeros((2, 40))}, r"b must have a prediction .* got .*\(2, 40"),
        ({"loss": "mse"}, "loss must be one of 'nmse', .*, got 'mse'"),
        ({"loss": lambda y, p: 0.0}, r"loss must return an array of shape \(40,\)"),
        ({"confidence": 95}, "confidence must be between 0 and 1, got 95"),
        ({"alpha": 0.0}, "alpha must be between 0 and 1, got 0.0"),
        ({"a": np.zeros((40, 3))}, "each of the 6 labels .*, got 3 columns"),
    ):
        given = {"a": y, "b": y, "y": y, "groups": GROUPS} | change
        with pytest.raises(ValueError, match=message):
            paired_comparison(**given)
