"""Metrics compared with their formulas in NumPy and scikit-learn."""

import math
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, log_loss, roc_auc_score
from sklearn.model_selection import KFold, StratifiedKFold, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from braindecode_sam import SCORING, SCORING_CLASSIFICATION
from braindecode_sam import normalized_root_mean_squared_error as nrmse

values = st.floats(-1e3, 1e3)


class Oracle(RegressorMixin, BaseEstimator):
    """Predicts what it gets."""

    def predict(self, X):
        return X


def pearson(y_true, y_pred):
    return SCORING["pearsonr"](Oracle(), y_pred, y_true)


@given(data=st.data(), shape=st.sampled_from([(9,), (9, 1), (9, 3)]))
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
    assert pearson(y, y[:, None]) == pytest.approx(1)


@given(arrays(float, (9, 2), elements=values), arrays(float, (9, 2), elements=values))
def test_pearson_equals_numpys(y_true, y_pred):
    if (np.ptp(y_true, axis=0) > 1e-3).all() and (np.ptp(y_pred, axis=0) > 1e-3).all():
        expected = np.mean(
            [np.corrcoef(y_true[:, i], y_pred[:, i])[0, 1] for i in (0, 1)]
        )
        assert pearson(y_true, y_pred) == pytest.approx(expected, abs=1e-7)


def test_pearson_of_a_constant_is_nan():
    assert math.isnan(pearson([1.0, 2.0], [3.0, 3.0]))


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


def test_refuses():
    for y_true, y_pred, options, message in (
        ([2.0, 2.0], [1.0, 3.0], {}, r"y_true is constant \(output 0, value 2.0"),
        ([[1, 5], [2, 5]], [[1, 5], [2, 5]], {}, "constant .output 1.*std is 0"),
        ([0.1] * 3, [1.0] * 3, {}, "constant"),  # whose std is not exactly 0
        ([1.0, 2.0], [1.0, 2.0], {"normalization": "iqr"}, "'std', 'range', got 'iqr'"),
        ([1.0, 2.0], [1.0, 2.0], {"multioutput": "x"}, "multioutput must be one of"),
        ([1.0, math.nan], [1.0, 2.0], {}, "y_true contains NaN"),
        ([1.0, 2.0], [1.0], {}, "y_true and y_pred must have the same shape"),
        ([-1.7e308, 1.7e308], [0.0] * 2, {"normalization": "range"}, "overflows"),
    ):
        with pytest.raises(ValueError, match=message):
            nrmse(y_true, y_pred, **options)
    with pytest.raises(ValueError, match=r"same shape, got \(2, 1\) and \(3, 1\)"):
        pearson([1.0, 2.0], [1.0, 2.0, 3.0])


# Classification

FEATURES = np.random.default_rng(0).normal(size=(60, 4))
PLACES = np.random.default_rng(1).permutation(np.arange(60) % 3)
NAMES = {
    "text": np.array(["left", "rest", "right"]),
    "objects": np.array(["left", "rest", "right"], dtype=object),
    "floats": np.array([-1.0, 0.0, 7.0]),
    "booleans": np.array([False, True]),
}


def scores_of(classifier, X, y):
    return {name: s(classifier, X, y) for name, s in SCORING_CLASSIFICATION.items()}


@pytest.mark.parametrize(
    ("name", "n_classes"), [("objects", 2), ("text", 3), ("floats", 2), ("booleans", 2)]
)
def test_scores_of_labels_equal_those_of_scikit_learn(name, n_classes):
    places = PLACES % n_classes
    y = NAMES[name][places]
    classifier = LogisticRegression().fit(FEATURES[:40], y[:40])
    X, y = FEATURES[40:], y[40:]
    found = scores_of(classifier, X, y)
    probabilities = classifier.predict_proba(X)
    expected = balanced_accuracy_score(y, classifier.predict(X))
    assert found["balanced_accuracy"] == pytest.approx(expected)
    assert found["neg_log_loss"] == pytest.approx(-log_loss(y, probabilities))
    # Numbers, since scikit-learn's scorer does not accept two classes of text.
    outputs = probabilities if n_classes > 2 else probabilities[:, 1]
    expected = roc_auc_score(places[40:], outputs, multi_class="ovr", average="macro")
    assert found["roc_auc"] == pytest.approx(expected)


def test_folds_that_lack_classes():
    y = NAMES["text"][PLACES]
    classifier = LogisticRegression().fit(FEATURES, y)
    few = y != "rest"
    predicted = classifier.predict(FEATURES[few])
    assert "rest" in predicted
    found = scores_of(classifier, FEATURES[few], y[few])
    recalls = [np.mean(predicted[y[few] == side] == side) for side in ("left", "right")]
    assert found["balanced_accuracy"] == pytest.approx(np.mean(recalls))
    probabilities = classifier.predict_proba(FEATURES[few])
    of_the_true = probabilities[range(few.sum()), np.where(y[few] == "left", 0, 2)]
    assert found["neg_log_loss"] == pytest.approx(np.log(of_the_true).mean())
    assert math.isnan(found["roc_auc"])
    one = y == "left"
    found = scores_of(classifier, FEATURES[one], y[one])
    assert found["balanced_accuracy"] == np.mean(
        classifier.predict(FEATURES[one]) == "left"
    )
    assert math.isnan(found["roc_auc"])


def test_scoring_labels_in_cross_validate():
    y = NAMES["text"][PLACES]
    scores = cross_validate(
        DummyClassifier(strategy="prior"), FEATURES, y, cv=StratifiedKFold(4),
        scoring=SCORING_CLASSIFICATION, error_score="raise",
    )  # fmt: skip
    np.testing.assert_allclose(scores["test_balanced_accuracy"], 1 / 3)
    np.testing.assert_allclose(scores["test_neg_log_loss"], -np.log(3))
    np.testing.assert_allclose(scores["test_roc_auc"], 0.5)
    scoring = pickle.loads(pickle.dumps(SCORING_CLASSIFICATION))
    classifier = DummyClassifier().fit(FEATURES, y)
    for name, scorer in scoring.items():
        expected = SCORING_CLASSIFICATION[name](classifier, FEATURES, y)
        assert scorer(classifier, FEATURES, y) == expected


@pytest.mark.parametrize("name", ["neg_log_loss", "roc_auc"])
def test_scores_of_probabilities_name_who_has_none(name):
    y = NAMES["text"][PLACES]
    scorer = SCORING_CLASSIFICATION[name]
    machine = make_pipeline(StandardScaler(), LinearSVC()).fit(FEATURES, y)
    message = rf"{name} needs a classifier with (?s:.*)LinearSVC.*has no predict_proba"
    with pytest.raises(TypeError, match=message):
        scorer(machine, FEATURES, y)
    expected = balanced_accuracy_score(y, machine.predict(FEATURES))
    found = SCORING_CLASSIFICATION["balanced_accuracy"](machine, FEATURES, y)
    assert found == pytest.approx(expected)
    regressor = DummyRegressor().fit(FEATURES, PLACES)
    with pytest.raises(
        TypeError, match=r"got DummyRegressor\(\), which has no predict_p"
    ):
        scorer(regressor, FEATURES, PLACES)
    few = LogisticRegression().fit(FEATURES[y != "rest"], y[y != "rest"])
    message = (
        rf"{name} is undefined for the label 'rest'.*fitted to \['left', 'right'\]"
    )
    with pytest.raises(ValueError, match=message):
        scorer(few, FEATURES, y)
