"""Splits by subject inside cross_validate, and out-of-fold predictions."""

import itertools
import types
from typing import ClassVar

import numpy as np
import pytest
import sklearn
import torch
from braindecode import EEGClassifier, EEGRegressor
from braindecode.datasets import create_from_X_y
from hypothesis import given
from hypothesis import strategies as st
from sklearn.compose import TransformedTargetRegressor
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    ShuffleSplit,
    cross_val_predict,
    cross_validate,
)
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from skorch.callbacks import Callback, EarlyStopping
from skorch.dataset import Dataset
from skorch.helper import SliceDataset

from braindecode_sam import SAM, make_classifier, make_regressor
from braindecode_sam.datasets import SubjectWindows
from braindecode_sam.model_selection import (
    SubjectSplit,
    out_of_fold_predictions,
    subjects_of,
)
from tests.tiny import Linear


def refused(message):
    return pytest.raises(ValueError, match=message)


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


def make_net(kind=EEGRegressor, **options):
    defaults = {"optimizer": SAM, "max_epochs": 2, "batch_size": 4, "verbose": 0}
    defaults["train_split"] = SubjectSplit(0.25, random_state=0)
    return kind(Linear, **(defaults | options))


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


def test_subject_windows_score_as_arrays_do_and_stop_early():
    windows = SubjectWindows(X, SUBJECTS)

    def validate(data, **options):
        torch.manual_seed(0)
        return cross_validate(
            make_net(**options), data, Y, groups=SUBJECTS, cv=GroupKFold(5),
            error_score="raise", return_estimator=True,
        )  # fmt: skip

    found, plain = (validate(data, train_split=None) for data in (windows, X))
    np.testing.assert_array_equal(found["test_score"], plain["test_score"])
    stopping = EarlyStopping(patience=1, load_best=True, sink=lambda message: None)
    stopped = validate(windows, callbacks=[stopping], max_epochs=9)
    assert np.isfinite(stopped["test_score"]).all()
    assert min(len(net.history) for net in stopped["estimator"]) < 9


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
    assert subjects_of(SliceDataset(dataset)).tolist() == [f"s{s}" for s in SUBJECTS]
    net, slices = make_net(max_epochs=1), SliceDataset(dataset)
    found = cross_validate(
        net, slices, Y, groups=SUBJECTS, cv=GroupKFold(2), error_score="raise"
    )
    assert np.isfinite(found["test_score"]).all()
    part = torch.utils.data.Subset(dataset, list(range(8)))
    train, valid = SubjectSplit(1, random_state=0)(part)
    assert (len(train), len(valid)) == (4, 4)
    with refused(r"subject must name a column among .*'subject'.*got 'person'"):
        SubjectSplit(subject="person")(dataset)


class Noting(SubjectSplit):
    """Notes the subjects of both parts."""

    def __call__(self, dataset, y=None, groups=None):
        parts = super().__call__(dataset, y, groups)
        NOTED.append([{int(window[0, 0]) for window, _ in part} for part in parts])
        return parts


NOTED = []
ROUTED = {"params": {"groups": SUBJECTS}, "cv": GroupKFold(2), "error_score": "raise"}
UNCHANGED = FunctionTransformer()
WAYS = {
    "fit": lambda net, y: net.fit(X, y, groups=SUBJECTS),
    "partial_fit": lambda net, y: net.partial_fit(X, y, groups=SUBJECTS),
    "pipeline": lambda net, y: Pipeline([("same", UNCHANGED), ("net", net)]).fit(
        X, y, net__groups=SUBJECTS
    ),
    "fit, routed": lambda net, y: net.fit(X, y, groups=SUBJECTS),
    "pipeline, routed": lambda net, y: make_pipeline(UNCHANGED, net).fit(
        X, y, groups=SUBJECTS
    ),
    "cross_validate, routed": lambda net, y: cross_validate(net, X, y, **ROUTED),
    "search, routed": lambda net, y: GridSearchCV(
        net, {"lr": [0.01, 0.02]}, cv=GroupKFold(2), error_score="raise"
    ).fit(X, y, groups=SUBJECTS),
}
NUMBERS = Y.astype(np.float32)
SCALED = "scaled targets, routed"


@pytest.mark.parametrize(
    ("builder", "way"),
    [*itertools.product((make_regressor, make_classifier), WAYS),
     (make_regressor, SCALED)],
)  # fmt: skip
def test_groups_reach_the_split_in_every_way(builder, way):
    net = builder(
        module="FastEEGNet", module__n_chans=3, module__n_times=120,
        train_split=Noting(1), max_epochs=1, batch_size=4, verbose=0, device="cpu",
    )  # fmt: skip
    y = NUMBERS if builder is make_regressor else np.array(["a", "b"] * 20)
    NOTED.clear()
    with sklearn.config_context(enable_metadata_routing="routed" in way):
        if way == SCALED:
            net = TransformedTargetRegressor(net, transformer=StandardScaler())
        WAYS.get(way, WAYS["cross_validate, routed"])(net, y)
    assert NOTED
    for train, valid in NOTED:
        assert len(valid) == 1
        assert not train & valid


def test_groups_of_another_length_are_refused():
    with refused("X and groups must have the same length"):
        SubjectSplit(1)(Dataset(X, Y), Y, groups=SUBJECTS[1:])


def test_splits_that_cannot_be_are_refused():
    windows = SubjectWindows(X, SUBJECTS)
    for data, valid_size, message in (
        (X, 0.2, r"no subjects found in ndarray.*SubjectWindows\(X"),
        (windows[:4], 0.2, "valid_size must leave some .*got 0.2 and 1 subjects"),
        (windows, 1.5, "valid_size must leave some .*got 1.5 and 10 subjects"),
        (windows, 10, "valid_size must leave some .*got 10 and 10 subjects"),
        (windows, "2", "valid_size must leave some .*got '2' and 10 subjects"),
    ):
        with refused(message):
            make_net(train_split=SubjectSplit(valid_size)).fit(data, Y[: len(data)])


# Out-of-fold predictions


LABELS = np.array(["left", "right", "rest", "right"] * 10)


def fitted(estimator, y, X=X[:, 0], **options):
    options = {"cv": GroupKFold(5), "groups": SUBJECTS} | options
    return cross_validate(
        estimator, X, y, return_estimator=True, return_indices=True,
        error_score="raise", **options,
    )  # fmt: skip


def test_out_of_fold_predictions_as_scikit_learn_gives_them():
    for y in (Y, np.stack([Y, -Y], axis=1)):
        found = out_of_fold_predictions(fitted(Ridge(), y), X[:, 0])
        expected = cross_val_predict(
            Ridge(), X[:, 0], y, groups=SUBJECTS, cv=GroupKFold(5)
        )
        np.testing.assert_allclose(found, expected.reshape(40, -1), rtol=1e-6)


@pytest.mark.parametrize("y", [LABELS.astype(object), np.arange(40) % 3])
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
    is_text = y.dtype == object
    assert labels.shape == ((40,) if is_text else (40, 1))
    assert labels.dtype == ("<U5" if is_text else float)


def test_labels_of_other_widths_and_windows_in_no_fold():
    y = np.array(["a"] * 20 + ["much longer"] * 20)
    halves = [(np.arange(20), np.arange(20, 30)), (np.arange(20, 40), np.arange(10))]
    results = fitted(DummyClassifier(), y, cv=halves)
    found = out_of_fold_predictions(results, X[:, 0])
    expected = ["much longer"] * 10 + [""] * 10 + ["a"] * 10 + [""] * 10
    assert found.tolist() == expected
    first = [(np.arange(4, 40), np.arange(4))]
    results = fitted(DummyClassifier(), LABELS, cv=first)
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
    with refused(r"classifiers of one output .*, got \[array\("):
        out_of_fold_predictions(results, X[:, 0], method="predict_proba")


def test_probabilities_of_nets_that_take_subject_windows():
    y = (np.arange(40) % 2).astype(np.int64)
    net = make_net(EEGClassifier, max_epochs=1)
    windows = SubjectWindows(X, SUBJECTS)
    results = fitted(net, y, windows, cv=GroupKFold(2))
    found = out_of_fold_predictions(results, windows, method="predict_proba")
    assert found.shape == (40, 2)
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-5)
    labels = out_of_fold_predictions(results, windows)
    np.testing.assert_array_equal(labels[:, 0], found.argmax(axis=1))


@pytest.mark.parametrize(
    ("estimator", "data"),
    [
        # skorch's regressors have a predict_proba, which predicts values.
        (make_net(train_split=None, max_epochs=1), X),
        (make_pipeline(StandardScaler(), Ridge()), X[:, 0]),
    ],
)
def test_refuses_probabilities_of_regressors(estimator, data):
    y = (np.arange(40) % 2).astype(np.float32)
    results = fitted(estimator, y, data, cv=GroupKFold(2))
    with refused("needs classifiers .*, got None in fold 1"):
        out_of_fold_predictions(results, data, method="predict_proba")
    with refused(r"one of 'predict', 'predict_proba', got 'x'"):
        out_of_fold_predictions(results, data, method="x")


def test_windows_with_several_predictions_are_refused():
    """Later repeats would overwrite the others."""
    folds = list(ShuffleSplit(5, test_size=0.5).split(X))
    results = fitted(DummyRegressor(), Y, cv=folds)
    message = r"must not share windows, got window \d+ in test folds \d and \d"
    with refused(message):
        out_of_fold_predictions(results, X[:, 0])


def test_refuses_probabilities_of_other_classes():
    y = np.where(SUBJECTS < 8, LABELS, "never")
    rows = np.arange(40)
    folds = [(rows[:36], rows[36:]), (rows[:32], rows[32:36])]
    results = fitted(DummyClassifier(), y, cv=folds)
    with refused(r"\['left' 'rest' 'right'\] in fold 2 and \['left' 'never' 'rest'"):
        out_of_fold_predictions(results, X[:, 0], method="predict_proba")
    assert set(out_of_fold_predictions(results, X[:, 0])) == {"", "right"}
    folds = [(rows[:20], rows[20:30]), (rows[10:30], rows[30:])]  # as many classes
    results = fitted(DummyClassifier(), np.repeat(list("abcc"), 10), cv=folds)
    with refused(r"got \['b' 'c'\] in fold 2 and \['a' 'b'\] in fold 1"):
        out_of_fold_predictions(results, X[:, 0], method="predict_proba")


def test_refuses_folds_whose_predictions_do_not_fit_together():
    results = fitted(DummyRegressor(), np.stack([Y, Y], axis=1), cv=GroupKFold(2))
    other = fitted(DummyRegressor(), Y, cv=GroupKFold(2))
    results["estimator"][1] = other["estimator"][1]
    with refused("at index 0 has size 2 and the array at index 1 has size 1"):
        out_of_fold_predictions(results, X[:, 0])


def test_refuses_results_that_lack_something():
    for key in ("estimator", "indices"):
        results = fitted(DummyRegressor(), Y)
        del results[key]
        with refused("results must have 'estimator' and 'indices', as cross_validate"):
            out_of_fold_predictions(results, X[:, 0])


# Subjects that are missing


def test_a_subject_may_be_missing_where_no_window_is_taken():
    windows = types.SimpleNamespace(groups=np.array(["a", None, "b"], dtype=object))
    part = torch.utils.data.Subset(windows, [0, 2])
    assert subjects_of(part).tolist() == ["a", "b"]
    with refused("subject for every window, got None"):
        subjects_of(windows)
