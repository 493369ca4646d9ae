"""SubjectSplit inside cross_validate: no subject on both sides, no test fold seen."""

from typing import ClassVar

import numpy as np
import pytest
import torch
from braindecode import EEGRegressor
from braindecode.datasets import create_from_X_y
from hypothesis import given
from hypothesis import strategies as st
from sklearn.dummy import DummyRegressor
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    RepeatedKFold,
    ShuffleSplit,
    cross_validate,
)
from skorch.callbacks import Callback, EarlyStopping
from skorch.dataset import Dataset
from skorch.helper import SliceDataset

from braindecode_sam import SAM, SCORING
from braindecode_sam.datasets import SubjectWindows
from braindecode_sam.model_selection import (
    SubjectSplit,
    nrmse_table,
    out_of_fold_predictions,
)

RNG = np.random.default_rng(0)
SUBJECTS = np.repeat(np.arange(10), 4)
# A window's first sample is its subject, its second one its own number.
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
    """Writes down which windows train and which validate."""

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
    """Windows that know their subjects give the scores that plain arrays give."""
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
    with pytest.raises(ValueError, match=r"'person', which is not among.*subject"):
        SubjectSplit(subject="person")(dataset)


def test_groups_by_metadata_routing():
    train, valid = SubjectSplit(1)(Dataset(X, Y), Y, groups=SUBJECTS)
    assert (len(train), len(valid)) == (36, 4)


def test_refuses_data_without_subjects():
    with pytest.raises(
        ValueError, match=r"ndarray knows no subjects.*SubjectWindows\(X"
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


# What scikit-learn itself says, which is clear enough to be left as it is


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
    message = r"window \d+ is in test folds \d and \d, so it has several predictions"
    with pytest.raises(ValueError, match=message):
        out_of_fold_predictions(results, X)
    with pytest.raises(ValueError, match=message):
        nrmse_table(Y, {"mean": Y}, results["indices"]["test"])
