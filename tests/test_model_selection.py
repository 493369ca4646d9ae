"""Splits by subject inside cross_validate, and out-of-fold predictions."""

import types
from typing import ClassVar

import numpy as np
import pytest
import torch
from braindecode import EEGClassifier, EEGRegressor
from braindecode.datasets import create_from_X_y
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn import config_context
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import accuracy_score, r2_score
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    RepeatedKFold,
    ShuffleSplit,
    cross_val_predict,
    cross_validate,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from skorch.callbacks import Callback, EarlyStopping
from skorch.dataset import Dataset
from skorch.helper import SliceDataset

from braindecode_sam import SAM, SCORING
from braindecode_sam.datasets import SubjectWindows
from braindecode_sam.model_selection import (
    PredefinedSubjectSplit,
    SubjectSplit,
    nrmse_table,
    out_of_fold_predictions,
    pool_by_recording,
    subjects_of,
)

RNG = np.random.default_rng(0)
SUBJECTS = np.repeat(np.arange(10), 4)
# The first sample of a window is its subject, the second its index.
X = RNG.normal(size=(40, 3, 120)).astype(np.float32)
X[:, 0, 0], X[:, 0, 1] = SUBJECTS, np.arange(40)
Y = RNG.normal(size=40).astype(np.float32)


@given(
    labels=st.one_of(
        st.lists(st.integers(0, 6), min_size=2, max_size=30),
        st.lists(st.sampled_from("abc"), min_size=2, max_size=30),
    ).filter(lambda labels: len(set(labels)) > 1),
    valid_size=st.sampled_from([0.2, 0.5, 1]),
    seed=st.integers(0, 99),
)
def test_splits_by_subject(labels, valid_size, seed):
    groups = np.array(labels)
    windows = SubjectWindows(np.zeros((len(groups), 1, 1)), groups)
    split = SubjectSplit(valid_size, random_state=seed)
    train, valid = split(Dataset(windows, np.zeros(len(groups))))
    assert sorted([*train.indices, *valid.indices]) == list(range(len(groups)))
    assert not set(groups[train.indices]) & set(groups[valid.indices])
    assert len(train) > 0 < len(valid)
    if valid_size == 1:
        assert len(set(groups[valid.indices])) == 1


class Witness(Callback):
    """Records the windows for training and for validation."""

    seen: ClassVar[list] = []

    def on_train_begin(self, net, X=None, y=None, **kwargs):
        Witness.seen.append({True: set(), False: set()})

    def on_batch_begin(self, net, batch=None, training=None, **kwargs):
        Witness.seen[-1][training] |= {int(n) for n in batch[0][:, 0, 1]}


def make_net(**options):
    defaults = {"optimizer": SAM, "max_epochs": 2, "batch_size": 4, "verbose": 0}
    defaults["train_split"] = SubjectSplit(0.25, random_state=0)
    return EEGRegressor("EEGNeX", **(defaults | options))


def test_inside_cross_validate_no_subject_is_on_two_sides():
    Witness.seen.clear()
    net = make_net(callbacks=[Witness()], iterator_train__drop_last=False)
    cv = GroupKFold(5)
    windows = SubjectWindows(X, SUBJECTS)
    cross_validate(net, windows, Y, groups=SUBJECTS, cv=cv, error_score="raise")
    assert len(Witness.seen) == 5
    for seen, (_, test) in zip(Witness.seen, cv.split(X, Y, SUBJECTS), strict=True):
        train, valid, test = (
            {SUBJECTS[i] for i in part} for part in (*seen.values(), test)
        )
        assert train | valid | test == set(SUBJECTS)
        assert len(train) + len(valid) + len(test) == 10
        assert len(valid) == 2


@pytest.mark.slow
@pytest.mark.parametrize("n_jobs", [1, 2])
def test_early_stopping_and_scores_as_for_arrays(n_jobs):
    """SubjectWindows give the same scores as arrays."""
    windows = SubjectWindows(X, SUBJECTS)

    def scores(data, **options):
        torch.manual_seed(0)
        net = make_net(**options)
        found = cross_validate(
            net,
            data,
            Y,
            groups=SUBJECTS,
            cv=GroupKFold(5),
            scoring=SCORING,
            n_jobs=n_jobs,
            error_score="raise",
        )
        return found["test_neg_nrmse"]

    if n_jobs == 1:
        plain = scores(X, train_split=None)
        np.testing.assert_array_equal(scores(windows, train_split=None), plain)
    stopping = EarlyStopping(patience=1, load_best=True, sink=lambda message: None)
    stopped = scores(windows, callbacks=[stopping], max_epochs=6)
    assert np.isfinite(stopped).all()


def test_grid_search_inside_the_training_folds():
    grid = {"optimizer__rho": [0.0, 0.1]}
    search = GridSearchCV(make_net(max_epochs=1), grid, cv=GroupKFold(2))
    search.fit(SubjectWindows(X, SUBJECTS), Y, groups=SUBJECTS)
    assert "valid_loss" in search.best_estimator_.history[-1]


@pytest.fixture
def dataset():
    windows = create_from_X_y(X, Y, drop_last_window=False, sfreq=100)
    for part, subject in zip(windows.datasets, SUBJECTS, strict=True):
        part.set_description({"subject": f"s{subject}"})
    windows.target_transform = np.atleast_1d
    return windows


@pytest.mark.filterwarnings("ignore:.*drop_last_window.*:DeprecationWarning")
def test_braindecode_datasets(dataset):
    net = make_net(max_epochs=1)
    net.fit(dataset, y=None)
    assert net.history[-1, "valid_loss"] > 0
    train, valid = SubjectSplit(0.25, random_state=0)(dataset)
    assert len(valid) == 12
    first = cross_validate(
        make_net(max_epochs=1),
        SliceDataset(dataset),
        Y,
        groups=SUBJECTS,
        cv=GroupKFold(2),
        error_score="raise",
    )
    assert np.isfinite(first["test_score"]).all()
    part = torch.utils.data.Subset(dataset, list(range(8)))
    train, valid = SubjectSplit(1, random_state=0)(part)
    assert (len(train), len(valid)) == (4, 4)
    with pytest.raises(
        ValueError, match=r"subject must name a column among .*'subject'.*got 'person'"
    ):
        SubjectSplit(subject="person")(dataset)


def test_groups_by_metadata_routing():
    train, valid = SubjectSplit(1)(Dataset(X, Y), Y, groups=SUBJECTS)
    assert (len(train), len(valid)) == (36, 4)


def test_refuses_data_without_subjects():
    with pytest.raises(
        ValueError, match=r"no subjects found in ndarray.*SubjectWindows\(X"
    ):
        make_net().fit(X, Y)


def test_repr_shows_what_a_net_was_given():
    split = SubjectSplit(3, random_state=1)
    assert repr(split) == "SubjectSplit(3, random_state=1)"


def test_refuses_a_single_subject():
    with pytest.raises(ValueError, match=r"at least 2 subjects.*got 1: \[.*0"):
        make_net().fit(SubjectWindows(X[:4], SUBJECTS[:4]), Y[:4])


@pytest.mark.parametrize("valid_size", [0.0, 1.5, 10, -1])
def test_refuses_valid_size(valid_size):
    with pytest.raises(
        ValueError, match=f"valid_size must be a fraction.*got {valid_size}"
    ):
        make_net(train_split=SubjectSplit(valid_size)).fit(
            SubjectWindows(X, SUBJECTS), Y
        )


# Errors of scikit-learn that need no wrapper


def test_fewer_subjects_than_folds_and_no_groups():
    with pytest.raises(
        ValueError, match="n_splits=5 greater than the number of groups: 2"
    ):
        cross_validate(make_net(), X[:8], Y[:8], groups=SUBJECTS[:8], cv=GroupKFold(5))
    with pytest.raises(ValueError, match="'groups' parameter should not be None"):
        cross_validate(make_net(), X, Y, cv=GroupKFold(5))
    with pytest.raises(
        ValueError, match=r"inconsistent numbers of samples: \[40, 40, 39\]"
    ):
        cross_validate(make_net(), X, Y, groups=SUBJECTS[1:], cv=GroupKFold(5))


# Windows that are tested several times have several predictions


@pytest.mark.parametrize(
    "cv",
    [RepeatedKFold(n_splits=2, n_repeats=2), ShuffleSplit(5, test_size=0.5)],
    ids=lambda cv: type(cv).__name__,
)
def test_repeated_splits_are_refused_where_later_repeats_would_overwrite(cv):
    results = cross_validate(
        DummyRegressor(), X, Y, cv=cv, return_estimator=True, return_indices=True
    )
    message = r"must not share windows, got window \d+ in test folds \d and \d"
    with pytest.raises(ValueError, match=message):
        out_of_fold_predictions(results, X)
    with pytest.raises(ValueError, match=message):
        nrmse_table(Y, {"mean": Y}, results["indices"]["test"])


# Subjects by name


@given(
    groups=st.one_of(
        st.lists(st.integers(0, 4), min_size=2, max_size=20),
        st.lists(st.sampled_from(["a", "bc", "1"]), min_size=2, max_size=20),
    ).filter(lambda groups: len(set(groups)) > 1),
    data=st.data(),
)
def test_predefined_split_by_hand(groups, data):
    subjects = sorted(set(groups))
    tested = data.draw(st.sets(st.sampled_from(subjects), min_size=1))
    others = [s for s in subjects if s not in tested]
    trained = None
    if others and data.draw(st.booleans()):
        trained = data.draw(st.sets(st.sampled_from(others), min_size=1))
    cv = PredefinedSubjectSplit(tested, trained)
    assert cv.get_n_splits() == 1
    if not others:
        with pytest.raises(
            ValueError, match="leave a subject for training, got all of"
        ):
            next(cv.split(groups, groups=groups))
        return
    [(train, test)] = cv.split(groups, groups=groups)
    expected = others if trained is None else trained
    assert test.tolist() == [i for i, g in enumerate(groups) if g in tested]
    assert train.tolist() == [i for i, g in enumerate(groups) if g in expected]


@pytest.mark.parametrize(
    "subjects",
    [[8, 9], (9, 8), {8, 9}, np.array([8, 9]), np.array([8, 9], dtype=object)],
    ids=["list", "tuple", "set", "array", "objects"],
)
def test_predefined_split_in_cross_validate(subjects):
    cv = PredefinedSubjectSplit(test_subjects=subjects, train_subjects=range(4))
    results = cross_validate(
        Ridge(), X[:, 0], Y, groups=SUBJECTS, cv=cv, return_indices=True,
        error_score="raise",
    )  # fmt: skip
    ridge = Ridge().fit(X[:16, 0], Y[:16])
    expected = ridge.score(X[32:, 0], Y[32:])
    assert results["test_score"].tolist() == pytest.approx([expected])
    assert results["indices"]["test"][0].tolist() == list(range(32, 40))
    search = GridSearchCV(Ridge(), {"alpha": [0.1, 1.0]}, cv=cv)
    search.fit(X[:, 0], Y, groups=SUBJECTS)
    assert search.cv_results_["split0_test_score"][1] == pytest.approx(expected)


def test_predefined_split_by_metadata_routing():
    cv = PredefinedSubjectSplit([8, 9])
    plain = cross_validate(Ridge(), X[:, 0], Y, groups=SUBJECTS, cv=cv)
    with config_context(enable_metadata_routing=True):
        routed = cross_validate(Ridge(), X[:, 0], Y, params={"groups": SUBJECTS}, cv=cv)
    np.testing.assert_array_equal(routed["test_score"], plain["test_score"])


def test_predefined_split_shows_its_subjects():
    cv = PredefinedSubjectSplit(np.array(["a", "b"]))
    expected = "PredefinedSubjectSplit(test_subjects=['a', 'b'], train_subjects=None)"
    assert repr(cv) == expected


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["sub-01"], TypeError, "test_subjects must be a list .*, got 'sub-01'"),
        ([1], TypeError, "test_subjects must be a list .*, got 1"),
        ([[["a"]]], TypeError, r"test_subjects must be a list .*, got \[\['a'\]\]"),
        ([["a"], "b"], TypeError, "train_subjects must be a list .*, got 'b'"),
        ([["a"], [None]], TypeError, r"train_subjects must be a list.* got \[None\]"),
        ([[]], ValueError, r"test_subjects must name at least one subject, got \[\]"),
        ([["a"], []], ValueError, r"train_subjects must name at least one .* got \[\]"),
        ([["a", "b"], ["b"]], ValueError, "no subject in common, got 'b' in both"),
    ],
)
def test_predefined_split_refuses(arguments, error, message):
    with pytest.raises(error, match=message):
        PredefinedSubjectSplit(*arguments)


@pytest.mark.parametrize(
    ("arguments", "groups", "message"),
    [
        ([["a"]], None, r"got None; pass groups= to cross_validate"),
        ([["a"]], ["a"], "same length, got X: 4, groups: 1"),
        (
            [["x"]],
            list("aabb"),
            r"test_subjects must name subjects of groups, \['a', 'b'\], got 'x'$",
        ),
        (
            [["a"], ["x"]],
            list("aabb"),
            "train_subjects must name subjects of groups.*got 'x'",
        ),
        ([["1"]], [1, 1, 2, 2], r"\[1, 2\], got '1'.*text and numbers .* groups has 1"),
        ([[1]], list("1122"), r"\['1', '2'\], got 1;.* groups has '1'"),
        ([["a", "b"]], list("abab"), r"leave a subject .* got all of \['a', 'b'\]"),
        ([["a"]], ["a", None, "b", "b"], "subject for every window, got None"),
    ],
)
def test_predefined_split_refuses_groups(arguments, groups, message):
    with pytest.raises(ValueError, match=message):
        next(PredefinedSubjectSplit(*arguments).split(np.zeros(4), groups=groups))


# Out-of-fold predictions


LABELS = np.array(["left", "right", "rest", "right"] * 10)


def fitted(estimator, y, X=X[:, 0], **options):
    options = {"cv": GroupKFold(5), "groups": SUBJECTS} | options
    return cross_validate(
        estimator, X, y, return_estimator=True, return_indices=True,
        error_score="raise", **options,
    )  # fmt: skip


def test_out_of_fold_predictions_as_scikit_learn_gives_them():
    data, cv = X[:, 0], GroupKFold(5)
    options = {"groups": SUBJECTS, "cv": cv}
    ridge = out_of_fold_predictions(fitted(Ridge(), Y), data)
    expected = cross_val_predict(Ridge(), data, Y, **options)
    np.testing.assert_allclose(ridge, expected[:, None], rtol=1e-6)
    both = np.stack([Y, -Y], axis=1)
    ridge = out_of_fold_predictions(fitted(Ridge(), both), data)
    expected = cross_val_predict(Ridge(), data, both, **options)
    np.testing.assert_allclose(ridge, expected, rtol=1e-6)


@pytest.mark.parametrize("y", [LABELS, LABELS.astype(object), np.arange(40) % 3])
def test_out_of_fold_probabilities_and_labels(y):
    data, net = X[:, 0], LogisticRegression()
    results = fitted(net, y)
    options = {"groups": SUBJECTS, "cv": GroupKFold(5)}
    found = out_of_fold_predictions(results, data, method="predict_proba")
    expected = cross_val_predict(net, data, y, method="predict_proba", **options)
    np.testing.assert_array_equal(found, expected)
    labels = out_of_fold_predictions(results, data)
    expected = cross_val_predict(net, data, y, **options)
    np.testing.assert_array_equal(labels.reshape(40), expected)
    if y.dtype.kind in "UO":
        assert labels.dtype == "<U5"
        assert labels.shape == (40,)
        assert accuracy_score(y, labels) > 0
    else:
        assert labels.shape == (40, 1)


def test_labels_of_other_widths_and_windows_in_no_fold():
    y = np.array(["a"] * 20 + ["much longer"] * 20)
    halves = [(np.arange(20), np.arange(20, 30)), (np.arange(20, 40), np.arange(10))]
    results = fitted(DummyClassifier(), y, cv=halves)
    found = out_of_fold_predictions(results, X[:, 0])
    expected = ["much longer"] * 10 + [""] * 10 + ["a"] * 10 + [""] * 10
    assert found.tolist() == expected
    split = PredefinedSubjectSplit([0])
    results = fitted(DummyClassifier(), LABELS, cv=split)
    found = out_of_fold_predictions(results, X[:, 0], method="predict_proba")
    assert np.isnan(found[4:]).all()
    assert found.shape == (40, 3)
    np.testing.assert_allclose(found[:4].sum(axis=1), 1)


def test_labels_of_several_outputs():
    y = np.stack([LABELS, LABELS[::-1]], axis=1)
    results = fitted(DummyClassifier(), y, scoring=lambda *arguments: 0.0)
    found = out_of_fold_predictions(results, X[:, 0])
    assert found.shape == (40, 2)
    assert set(found.ravel()) == {"right"}
    message = r"one array of shape .* got a list of 2 from DummyClassifier"
    with pytest.raises(ValueError, match=message):
        out_of_fold_predictions(results, X[:, 0], method="predict_proba")


def test_probabilities_of_nets_that_take_subject_windows():
    y = (np.arange(40) % 2).astype(np.int64)
    net = EEGClassifier(
        "EEGNeX", optimizer=SAM, max_epochs=1, batch_size=4, verbose=0,
        train_split=SubjectSplit(1, random_state=0),
    )  # fmt: skip
    windows = SubjectWindows(X, SUBJECTS)
    results = fitted(net, y, windows, cv=GroupKFold(2))
    found = out_of_fold_predictions(results, windows, method="predict_proba")
    assert found.shape == (40, 2)
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-5)
    labels = out_of_fold_predictions(results, windows)
    np.testing.assert_array_equal(labels[:, 0], found.argmax(axis=1))


@pytest.mark.parametrize(
    ("estimator", "name"),
    [
        (Ridge(), "Ridge"),
        (make_pipeline(StandardScaler(), Ridge()), "Pipeline of Ridge"),
        (LinearSVC(), "LinearSVC"),
    ],
)
def test_refuses_probabilities_of_estimators_without(estimator, name):
    results = fitted(estimator, np.arange(40) % 2)
    message = f"every estimator has, got 'predict_proba', which {name} of fold 1 does"
    with pytest.raises(ValueError, match=message):
        out_of_fold_predictions(results, X[:, 0], method="predict_proba")
    with pytest.raises(ValueError, match=r"one of 'predict', 'predict_proba', got 'x'"):
        out_of_fold_predictions(results, X[:, 0], method="x")


def test_refuses_probabilities_of_regression_nets():
    """skorch's regressors have a predict_proba, which predicts values."""
    results = fitted(make_net(train_split=None, max_epochs=1), Y, X, cv=GroupKFold(2))
    assert hasattr(results["estimator"][0], "predict_proba")
    with pytest.raises(ValueError, match=r"got 'predict_proba', which EEGRegressor of"):
        out_of_fold_predictions(results, X, method="predict_proba")


def test_refuses_probabilities_of_other_classes():
    y = np.where(SUBJECTS < 8, LABELS, "never")
    rows = np.arange(40)
    folds = [(rows[:36], rows[36:]), (rows[:32], rows[32:36])]
    results = fitted(DummyClassifier(), y, cv=folds)
    known = r"got \['left', 'rest', 'right'\] in fold 2 and \['left', 'never', "
    with pytest.raises(ValueError, match=known):
        out_of_fold_predictions(results, X[:, 0], method="predict_proba")
    assert set(out_of_fold_predictions(results, X[:, 0])) == {"", "right"}


def test_refuses_folds_whose_predictions_do_not_fit_together():
    results = fitted(DummyRegressor(), np.stack([Y, Y], axis=1), cv=GroupKFold(2))
    other = fitted(DummyRegressor(), Y, cv=GroupKFold(2))
    results["estimator"][1] = other["estimator"][1]
    message = "got 1 of float.* in fold 2 and 2 of float.* in fold 1"
    with pytest.raises(ValueError, match=message):
        out_of_fold_predictions(results, X[:, 0])


@pytest.mark.parametrize("key", ["estimator", "indices"])
def test_refuses_results_that_lack_something(key):
    results = fitted(DummyRegressor(), Y)
    del results[key]
    with pytest.raises(
        ValueError, match=f"results must have the key '{key}'.*; call cross_validate"
    ):
        out_of_fold_predictions(results, X[:, 0])


# Recordings


@given(
    recordings=st.one_of(
        st.lists(st.sampled_from(["a", "bc", "d"]), min_size=1, max_size=12),
        st.lists(st.integers(-3, 3), min_size=1, max_size=12),
    ),
    shape=st.sampled_from([(), (1,), (3,)]),
    data=st.data(),
)
def test_pooling_by_hand(recordings, shape, data):
    numbers = arrays(float, (len(recordings), *shape), elements=st.floats(-99, 99))
    y_pred = data.draw(numbers)
    names = sorted(set(recordings))
    text = data.draw(st.booleans())
    target = {name: f"of {name}" if text else 0.1 * i for i, name in enumerate(names)}
    y_true = [target[name] for name in recordings]
    true, pooled, found = pool_by_recording(y_true, y_pred, recordings)
    assert found.tolist() == names
    assert true.tolist() == [target[name] for name in names]
    assert pooled.shape == (len(names), *shape)
    assert pooled.dtype == np.float64
    for name, mean in zip(names, pooled, strict=True):
        mine = [i for i, recording in enumerate(recordings) if recording == name]
        np.testing.assert_allclose(mean, y_pred[mine].mean(axis=0), atol=1e-12)


@pytest.mark.parametrize("dtype", [np.int64, np.float32, bool, ">f8"])
def test_pooled_targets_keep_their_dtype(dtype):
    y_true = np.array([[1, 0], [1, 0], [0, 1]], dtype=dtype)
    true, pooled, _ = pool_by_recording(y_true, np.ones((3, 2)), ["b", "b", "a"])
    assert true.dtype == y_true.dtype
    np.testing.assert_array_equal(true, [[0, 1], [1, 0]])
    np.testing.assert_array_equal(pooled, np.ones((2, 2)))


def test_scores_by_recording():
    y = SUBJECTS.astype(float)
    results = fitted(Ridge(), y)
    y_pred = out_of_fold_predictions(results, X[:, 0])
    true, pooled, names = pool_by_recording(y, y_pred, SUBJECTS)
    by_hand = [np.mean(y_pred[np.isin(SUBJECTS, s)]) for s in range(10)]
    assert names.tolist() == list(range(10))
    assert r2_score(true, pooled) == pytest.approx(r2_score(np.arange(10.0), by_hand))


@pytest.mark.parametrize(
    ("y_true", "y_pred", "recordings", "message"),
    [
        ([1, 1, 2], [0.5] * 3, list("aab"), None),
        ([1, 3, 2], [0.5] * 3, list("aab"), "got 1 and 3 in 'a'$"),
        (["x", "x", "y"], [0.5] * 3, list("abb"), "got 'x' and 'y' in 'b'$"),
        ([[1, 2], [1, 3]], [0.5] * 2, [7, 7], r"got \[1, 2\] and \[1, 3\] in 7$"),
        ([1, 1, 2], [0.5, np.nan, 0.5], list("aab"),
         r"y_pred must be finite, got \[nan\] for window 1 .*in no test fold"),
        ([1, np.nan, 2], [0.5] * 3, list("aab"), "y_true must be finite, got .nan."),
        (["x", None, "x"], [0.5] * 3, list("aab"), "y_true must name a label for"),
        (["x", 1, "x"], [0.5] * 3, list("aab"), "y_true must .* got 1 for window 1"),
        ([1, 1, 2], list("xyz"), list("aab"), "y_pred must hold numbers.*proba"),
        ([1, 1, 2], np.ones((3, 1, 1)), list("aab"), r"y_pred must have the shape"),
        ([1, 1, 2], [0.5] * 3, list("ab"),
         "y_true, y_pred and recordings must have the same length, got y_true: 3"),
        ([1, 1, 2], [0.5] * 3, ["a", None, "b"], "recordings must name a recording"),
        ([1, 1, 2], [0.5] * 3, ["a", 1, "b"], "recordings must .* all text or all num"),
        ([], [], [], "y_true must have the shape .* not be empty"),
    ],
)  # fmt: skip
def test_pooling_refuses(y_true, y_pred, recordings, message):
    if message is None:
        pool_by_recording(y_true, y_pred, recordings)
        return
    with pytest.raises(ValueError, match=message):
        pool_by_recording(y_true, y_pred, recordings)


# Subjects that are missing


def test_a_subject_may_be_missing_where_no_window_is_taken():
    windows = types.SimpleNamespace(groups=np.array(["a", None, "b"], dtype=object))
    part = torch.utils.data.Subset(windows, [0, 2])
    assert subjects_of(part).tolist() == ["a", "b"]
    with pytest.raises(ValueError, match="subject for every window, got None"):
        subjects_of(windows)
