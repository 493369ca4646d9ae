"""Regressors and classifiers that follow scikit-learn's conventions."""

import functools
import pickle
import warnings

import mne
import numpy as np
import pandas as pd
import pytest
import torch
from braindecode import EEGClassifier, EEGRegressor
from braindecode.datasets import create_from_X_y
from braindecode.training import CroppedLoss
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import VotingClassifier, VotingRegressor
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LinearRegression, SGDClassifier
from sklearn.metrics import accuracy_score, balanced_accuracy_score
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    cross_val_predict,
    cross_validate,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    QuantileTransformer,
    StandardScaler,
)
from sklearn.utils import get_tags
from sklearn.utils.class_weight import compute_class_weight
from skorch import NeuralNetBinaryClassifier
from skorch.callbacks import EarlyStopping, EpochScoring
from skorch.dataset import Dataset, ValidSplit
from skorch.helper import SliceDataset, predefined_split

from braindecode_sam import SAM, FastEEGNeX, make_classifier, make_regressor
from braindecode_sam.callbacks import WindowCheck
from braindecode_sam.datasets import SubjectWindows
from braindecode_sam.model_selection import SubjectSplit
from braindecode_sam.nets import Classifier, Regressor, stock_model
from tests.optim.helpers import assert_same
from tests.tiny import Linear

RNG = np.random.default_rng(0)
X = RNG.normal(size=(16, 4, 128)).astype(np.float32)
Y = RNG.normal(size=16).astype(np.float32)
SUBJECTS = np.repeat(np.arange(4), 4)
CODES = np.tile([1, 0, 0, 1], 4)
SIDES = np.array(["left", "right"])[CODES]
THREE = np.tile(["c", "a", "b", "a"], 4)
SMALL = {"batch_size": 4, "max_epochs": 1, "verbose": 0, "device": "cpu"}
SHAPE = {"module__n_chans": 4, "module__n_times": 128}
QUICK = SMALL | {"module": Linear}


BUILDERS = {
    "regressor": (make_regressor, SHAPE, Y),
    "classifier": (make_classifier, {}, SIDES),
}


@pytest.fixture(params=BUILDERS)
def kind(request):
    """A builder with small settings, and targets for its nets."""
    builder, shape, y = BUILDERS[request.param]
    return lambda **settings: builder(**(QUICK | shape | settings)), y


class LogLinear(Linear):
    """Returns log-probabilities."""

    def forward(self, x):
        return super().forward(x).log_softmax(1)


class Crops(torch.nn.Module):
    """Returns outputs for two crops of a window."""

    def __init__(self, n_chans, n_times, n_outputs):
        super().__init__()
        self.layer = torch.nn.Linear(n_chans * n_times // 2, n_outputs)

    def forward(self, x):
        return torch.stack([self.layer(c.flatten(1)) for c in x.chunk(2, -1)], -1)


def classifier(module=Linear, cls=Classifier, **settings):
    defaults = {"batch_size": 4, "max_epochs": 2, "verbose": 0, "lr": 0.1}
    return cls(module, **(defaults | {"train_split": None} | settings))


def fitted(net, *data):
    torch.manual_seed(0)
    return net.fit(*data)


def weights(net):
    return net.module_.state_dict()


class Windows(torch.utils.data.Dataset):
    """Windows with unconverted targets, and a count of reads."""

    def __init__(self, targets):
        self.targets = targets
        self.n_read = 0

    def __len__(self):
        return len(X)

    def __getitem__(self, i):
        self.n_read += 1
        return X[i], self.targets[i]


def concat(targets):
    with warnings.catch_warnings():
        # braindecode passes on an argument under another name.
        warnings.simplefilter("ignore", DeprecationWarning)
        return create_from_X_y(X, targets, drop_last_window=False, sfreq=128)


# Both


def test_lists_of_windows_are_refused(kind):
    make, y = kind
    for method, cls in (("fit", list), ("partial_fit", tuple)):
        message = f"array of windows or a Dataset, got a {cls.__name__} of length 16"
        with pytest.raises(TypeError, match=message):
            getattr(make(), method)(cls(X), y)


@pytest.mark.parametrize("how", ["warm_start", "partial_fit"])
def test_loaded_weights_are_trained_on(kind, how, tmp_path):
    make, y = kind
    trained = make().fit(X, y)
    trained.save_params(f_params=tmp_path / "weights.pt")
    net = make(
        warm_start=True, module__n_outputs=trained.module_.layer.out_features, **SHAPE
    )
    net.set_params(lr=0.0, optimizer__weight_decay=0.0).initialize()
    net.load_params(f_params=tmp_path / "weights.pt")
    (net.fit if how == "warm_start" else net.partial_fit)(X, y)
    ours, theirs = (dict(n.module_.named_parameters()) for n in (net, trained))
    assert_same(ours, theirs)


@pytest.mark.filterwarnings("ignore:The training set has:UserWarning")
def test_fewer_windows_than_a_batch_are_an_error(kind):
    make, y = kind
    net = make(batch_size=17)
    with pytest.raises(ValueError, match="trains on 16 windows, fewer than batch_size"):
        net.fit(X, y)
    net = clone(net).set_params(iterator_train__drop_last=False).fit(X, y)
    assert np.isfinite(net.history[-1]["train_loss"])


def test_a_net_is_returned_and_pickled_with_what_it_knows(kind):
    make, y = kind
    net = make()
    assert net.fit(X, y) is net.partial_fit(X, y) is net
    again = pickle.loads(pickle.dumps(net))
    np.testing.assert_array_equal(again.predict(X), net.predict(X))


class NoShape(torch.nn.Module):
    """Takes nothing that is inferred from the data."""

    def __init__(self, n_columns=3):
        super().__init__()
        self.layer = torch.nn.LazyLinear(n_columns)

    def forward(self, x):
        return self.layer(x.flatten(1))


def test_a_fitted_net_takes_another_module():
    net = classifier().fit(X, SIDES).set_params(module=NoShape, module__n_columns=2)
    assert net.fit(X, SIDES).predict_proba(X).shape == (16, 2)
    net = clone(net).set_params(module=Linear, module__n_columns=3)
    with pytest.raises(TypeError, match="unexpected keyword argument 'n_columns'"):
        net.initialize()


def test_epochs_of_mne_tell_the_number_of_channels():
    info = mne.create_info(4, 128.0, "eeg")
    epochs = mne.EpochsArray(X * 1e-6, info, verbose="error")
    net = fitted(classifier(), epochs, SIDES)  # whose module takes no chs_info
    expected = fitted(classifier(), X, SIDES).predict_proba(X)
    np.testing.assert_allclose(net.predict_proba(epochs), expected, rtol=1e-3)


# Regressors


@pytest.mark.parametrize(
    "fit",
    [
        lambda net: net.fit(Windows(Y), y=None),
        lambda net: net.fit(Windows(Y[:, None]), y=None),
        lambda net: net.fit(X, list(Y)),
        lambda net: net.fit(X, tuple(Y)),
        lambda net: net.fit(X, Y.astype(object)),
        lambda net: net.fit(X, pd.DataFrame({"time": Y})),
        lambda net: net.partial_fit(X, Y),
        lambda net: net.partial_fit(X, pd.Series(Y)),
    ],
    ids=[
        *("dataset", "column", "list", "tuple", "objects", "table", "partial_fit"),
        "partial_fit, series",
    ],
)
def test_targets_without_a_column_are_not_compared_with_all_of_a_batch(fit):
    one, other = (make_regressor(random_state=0, **QUICK, **SHAPE) for _ in range(2))
    assert_same(weights(fit(one)), weights(other.fit(X, Y)))


def test_stock_nets_are_told_of_a_missing_column():
    net = classifier(cls=EEGRegressor, optimizer=SAM, module__n_outputs=1, **SHAPE)
    net.set_params(callbacks=[WindowCheck()])
    with pytest.raises(ValueError, match="compare each target with every predic"):
        net.fit(Windows(Y), y=None)


def test_predictions_have_the_shape_of_the_targets():
    net = make_regressor(**QUICK, **SHAPE)
    assert isinstance(net, Regressor)
    assert net.fit(X, Y).predict(X).shape == (16,)
    assert net.fit(X, Y[:, None]).predict(X).shape == (16, 1)
    assert net.partial_fit(X, Y).predict(X).shape == (16,)
    voting = VotingRegressor([("a", clone(net)), ("b", clone(net))]).fit(X, Y)
    assert voting.predict(X).shape == (16,)
    expected = np.mean([n.predict(X) for n in voting.estimators_], axis=0)
    np.testing.assert_allclose(voting.predict(X), expected, rtol=1e-5)


def mean_error(net, X, y):
    return float(np.abs(net.predict(X) - y).mean())


def test_callbacks_compare_each_prediction_with_its_own_target():
    """In a second training too, and after it predictions have no column."""
    score = EpochScoring(mean_error, name="error")
    net = make_regressor(
        **QUICK, **SHAPE, train_split=ValidSplit(4), callbacks=[("error", score)]
    )
    for _ in range(2):
        net.fit(X, Y)
        _, valid = net.get_split_datasets(X, Y)
        expected = np.abs(net.predict(X) - Y)[valid.indices].mean()
        assert net.history[-1, "error"] == pytest.approx(expected, rel=1e-5)


def test_weights_that_are_loaded_predict_in_the_shape_of_most_targets(tmp_path):
    net = make_regressor(**QUICK, **SHAPE).fit(X, Y)
    net.save_params(f_params=tmp_path / "weights.pt")
    again = make_regressor(**QUICK, **SHAPE).initialize()
    again.load_params(f_params=tmp_path / "weights.pt")
    np.testing.assert_array_equal(again.predict(X), net.predict(X))


class Passing(Linear):
    """Hands its sizes on."""

    def __init__(self, **sizes):
        super().__init__(**sizes)


def test_a_module_that_hands_its_sizes_on_gets_them():
    net = classifier(Passing).fit(X, THREE)
    assert net.predict_proba(X).shape == (16, 3)


@pytest.mark.filterwarnings("ignore:The training set has:UserWarning")
def test_a_stock_net_that_trains_on_nothing_is_told():
    net = classifier(
        cls=EEGRegressor, callbacks=[WindowCheck()], optimizer=SAM, batch_size=25,
        max_epochs=1,
    )  # fmt: skip
    with pytest.raises(ValueError, match="so that no batch is left"):
        net.fit(X, Y[:, None])


# Labels


LABELS = {
    "text, objects": SIDES.astype(object),
    "text, categories": pd.Series(SIDES, dtype="category"),
    "far apart": np.array([-7, 769])[CODES],
    "booleans, list": CODES.astype(bool).tolist(),
    "floats": CODES + 1.0,
    "unsigned": CODES.astype(np.uint8),
    "torch": torch.tensor(CODES + 1),
}


@pytest.mark.parametrize("name", LABELS)
def test_labels_of_any_kind(name):
    y = LABELS[name]
    net = fitted(classifier(), X, y)
    array = np.asarray(y)
    labels = np.unique(array)
    assert net.classes_.tolist() == labels.tolist()
    stock = classifier(cls=EEGClassifier)
    fitted(stock, X, CODES)
    assert_same(weights(net), weights(stock))
    np.testing.assert_array_equal(net.predict_proba(X), stock.predict_proba(X))
    np.testing.assert_array_equal(net.predict(X), labels[stock.predict(X)])
    assert net.predict(X).dtype.kind == labels.astype(type(labels[0])).dtype.kind
    assert net.score(X, array) == accuracy_score(CODES, stock.predict(X))


def test_refuses_what_is_no_label():
    for y, message in (
        (Y, r"y must hold labels, all text or all integers, got array"),
        (["a", 1] * 8, "y must hold labels"),
        ([None, "a"] * 8, "y must hold labels"),
        (None, "y must hold labels.*got None"),
        (np.eye(16, dtype=int), r"1d array, got an array of shape \(16, 16\)"),
        (["a"] * 16, r"y must hold at least two classes, got \['a'\].*pass classes="),
    ):
        net = classifier()
        with pytest.raises(ValueError, match=message):
            net.fit(X, y)
        assert not hasattr(net, "module_")


def test_refuses_classes():
    for classes, y, message in (
        (["a"], SIDES, r"classes must hold at least two classes, got \['a'\]"),
        ("ab", SIDES, "classes must hold labels.*got 'ab'"),
        (["left", "up"], SIDES, r"among the classes .*left.*up.*, got 'right'"),
        # Text that reads like numbers is text.
        ([0, 1], CODES.astype(str), r"among the classes \[0, 1\], got '0'"),
    ):
        net = classifier(classes=classes)
        for method in (net.fit, net.partial_fit):
            with pytest.raises(ValueError, match=message):
                method(X, y)
        with pytest.raises(ValueError, match=message):
            classifier().partial_fit(X, y, classes=classes)


def test_classes_fix_the_columns_where_a_class_is_missing():
    few = THREE != "b"
    net = fitted(classifier(classes=["c", "a", "b"]), X[few], THREE[few])
    assert net.classes_.tolist() == ["a", "b", "c"]
    probabilities = net.predict_proba(X)
    assert probabilities.shape == (16, 3)
    stock = classifier(cls=EEGClassifier, classes=[0, 1, 2])
    fitted(stock, X[few], np.array([{"a": 0, "c": 2}[label] for label in THREE[few]]))
    np.testing.assert_array_equal(probabilities, stock.predict_proba(X))
    assert fitted(classifier(), X[few], THREE[few]).predict_proba(X).shape == (16, 2)


def test_labels_that_scikit_learn_numbers():
    options = {"cv": GroupKFold(2), "groups": SUBJECTS, "method": "predict_proba"}
    found = cross_val_predict(classifier(), X, THREE, **options)
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-5)
    with pytest.raises(ValueError, match=r"got 0; keep classes=None where scikit"):
        cross_val_predict(classifier(classes=["a", "b", "c"]), X, THREE, **options)


def test_classes_are_known_before_fit_only_where_they_are_given():
    with pytest.raises(NotFittedError, match="classes_ is unknown"):
        classifier().classes_  # noqa: B018
    assert not hasattr(classifier(), "classes_")
    net = classifier(classes=["b", "a"], module__n_outputs=2, **SHAPE).initialize()
    assert net.classes_.tolist() == ["a", "b"]
    assert set(net.predict(X)) <= {"a", "b"}


def test_a_number_of_outputs_that_is_not_that_of_the_classes():
    net = classifier(module__n_outputs=3)
    with pytest.raises(ValueError, match=r"each of 2 classes, .*le.*, got 3 outputs"):
        net.fit(X, SIDES)
    net.set_params(classes=["left", "right", "up"]).fit(X, SIDES)
    assert net.predict_proba(X).shape == (16, 3)


def test_fit_begins_anew_with_the_labels_of_its_own_data():
    net = classifier().fit(X, SIDES)
    again = fitted(net, X, THREE)
    assert_same(weights(again), weights(fitted(classifier(), X, THREE)))
    assert again.classes_.tolist() == ["a", "b", "c"]


# Continued training


def test_partial_fit_has_the_classes_of_scikit_learn():
    ours, theirs = classifier(max_epochs=1), SGDClassifier()
    flat = X.reshape(16, -1)
    left = SIDES == "left"
    assert classifier().partial_fit(X, SIDES).classes_.tolist() == ["left", "right"]
    for rows, classes in ((left, ["right", "left"]), (~left, None), (left, SIDES)):
        ours.partial_fit(X[rows], SIDES[rows], classes=classes)
        theirs.partial_fit(flat[rows], SIDES[rows], classes=classes)
        assert ours.classes_.tolist() == theirs.classes_.tolist()
    assert len(ours.history) == 3
    for net, data in ((ours, X), (theirs, flat)):
        with pytest.raises(ValueError, match="classes"):
            net.partial_fit(data, SIDES, classes=["left", "up"])
    message = r"the known ones, \['left', 'right'\], got \['left', 'up'\]"
    with pytest.raises(ValueError, match=message):
        ours.partial_fit(X, SIDES, classes=["left", "up"])
    with pytest.raises(ValueError, match=r"among the classes .*, got 'a'"):
        ours.partial_fit(X, THREE)
    assert len(ours.history) == 3


def test_a_warm_start_keeps_the_classes():
    net = classifier(warm_start=True).fit(X, SIDES)
    net.fit(X[SIDES == "left"], SIDES[SIDES == "left"])
    assert net.classes_.tolist() == ["left", "right"]
    with pytest.raises(ValueError, match=r"among the classes .*, got 'a'"):
        net.fit(X, THREE)


# Datasets with their own targets


DATASETS = {
    "any": Windows,
    "tensors": lambda y: torch.utils.data.TensorDataset(
        torch.tensor(X), torch.tensor(y)
    ),
    "skorch": lambda y: Dataset(X, y),
    "braindecode": concat,
    "subset": lambda y: torch.utils.data.Subset(concat(y), range(16)),
}


@pytest.mark.parametrize("name", DATASETS)
def test_datasets_carry_their_own_targets(name):
    dataset = DATASETS[name](CODES + 1)
    net = fitted(classifier(), dataset, None)
    reference = fitted(classifier(), X, CODES)
    assert_same(weights(net), weights(reference))
    assert net.classes_.tolist() == [1, 2]
    np.testing.assert_array_equal(net.predict(dataset), reference.predict(X) + 1)


def test_targets_are_read_once_and_only_where_they_must_be():
    dataset = Windows(CODES)
    fitted(classifier(max_epochs=0, classes=[0, 1]), dataset, None)
    n_read = dataset.n_read
    assert n_read < 16  # of the first window, to see its shape
    for settings in ({}, {"classes": [0, 1], "class_weight": "balanced"}):
        dataset.n_read = 0
        fitted(classifier(max_epochs=0, **settings), dataset, None)
        assert dataset.n_read == 16 + n_read
    windows, seen = concat(CODES), []
    windows.transform = lambda window: seen.append(window) or window
    net = fitted(classifier(max_epochs=0), windows, None)
    assert net.classes_.tolist() == [0, 1]
    assert len(seen) == n_read


def test_targets_that_a_dataset_transforms():
    dataset = concat(CODES + 769)
    dataset.target_transform = lambda target: target - 769
    net = fitted(classifier(), dataset, None)
    assert net.classes_.tolist() == [0, 1]
    assert_same(weights(net), weights(fitted(classifier(), X, CODES)))


def test_labels_beside_windows_that_are_read_one_by_one():
    net = fitted(classifier(), SliceDataset(Windows(Y)), SIDES)
    assert_same(weights(net), weights(fitted(classifier(), X, SIDES)))
    assert net.classes_.tolist() == ["left", "right"]


def test_labels_beside_a_dataset_are_those_that_it_carries():
    split = ValidSplit(4, stratified=True)
    net = fitted(classifier(train_split=split), concat(CODES), CODES)
    assert len(net.history[-1, "batches"]) == 4
    for dataset in (concat(CODES), DATASETS["tensors"](CODES)):
        with pytest.raises(ValueError, match="y must equal the targets of the Dataset"):
            classifier().fit(dataset, 1 - CODES)
        with pytest.raises(ValueError, match=r"Dataset must be integers.*'left'"):
            classifier().fit(dataset, SIDES)


def test_refuses_targets_of_datasets():
    for targets, classes, message in (
        (SIDES, None, "Dataset must be integers.*'left'"),
        (CODES, ["left", "right"], "Dataset must be integers.*'left'"),
        (Y, None, "all text or all integers"),
    ):
        with pytest.raises(ValueError, match=message):
            classifier(classes=classes).fit(Windows(targets), None)
    for wrong, classes in ((2, [0, 1]), (1, [5, 6])):  # not read before the training
        with pytest.raises(IndexError, match="Target 2 is out of bounds"):
            classifier(classes=classes).fit(Windows(np.full(16, wrong)), None)


# Scores while training


@pytest.mark.parametrize("y", [SIDES, CODES + 1.0], ids=["text", "floats"])
def test_scores_compare_labels_with_labels(y):
    net = classifier(
        train_split=ValidSplit(4), iterator_train__drop_last=False,
        callbacks=[
            "accuracy",
            EpochScoring("balanced_accuracy", name="mine", lower_is_better=False),
            EpochScoring("accuracy", name="read", use_caching=False),
            EpochScoring("accuracy", name="train", on_train=True, use_caching=False),
            EpochScoring(labels_seen, name="labels"),
        ],
    )  # fmt: skip
    fitted(net, X, y)
    train, valid = (d.indices for d in net.get_split_datasets(X, y))
    predicted = net.predict(X)
    on_valid = accuracy_score(y[valid], predicted[valid])
    on_train = accuracy_score(y[train], predicted[train])
    assert on_train > 0  # or a comparison of anything would do
    last = net.history[-1]
    assert last["valid_acc"] == last["valid_accuracy"] == last["read"] == on_valid
    assert last["train_accuracy"] == last["train"] == on_train
    assert last["mine"] == balanced_accuracy_score(y[valid], predicted[valid])
    assert last["labels"] == 1
    net.set_params(callbacks__valid_acc__lower_is_better=None).partial_fit(X, y)
    assert net.history[-1]["valid_acc"] == net.score(X[valid], y[valid])


def labels_seen(net, X, y):
    return float(set(y.tolist()) <= set(net.classes_.tolist()))


def test_a_validation_set_with_labels_of_its_own():
    valid = Dataset(X[:6], SIDES[:6])
    net = fitted(classifier(train_split=predefined_split(valid)), X, SIDES)
    assert net.history[-1]["valid_acc"] == net.score(X[:6], SIDES[:6])
    with pytest.raises(ValueError, match=r"among the classes .*, got 'a'"):
        classifier(train_split=predefined_split(Dataset(X, THREE))).fit(X, SIDES)
    for y, classes in ((CODES / 2, "all text or all integers"), (CODES * 3, "got 3")):
        with pytest.raises(ValueError, match=classes):
            classifier(train_split=predefined_split(Dataset(X, y))).fit(X, CODES)


def test_a_validation_set_of_numbers_does_not_stand_for_text():
    for targets in (CODES, SIDES):
        for valid in (
            Windows(targets),
            torch.utils.data.Subset(Dataset(X, targets), [1]),
        ):
            net = classifier(train_split=predefined_split(valid))
            with pytest.raises(ValueError, match=r"Dataset must be integers.*'left'"):
                net.fit(X, SIDES)
    net = classifier(train_split=predefined_split(Windows(CODES + 5)))
    net.fit(X, CODES + 5)
    assert net.history[-1]["valid_acc"] == net.score(X, CODES + 5)


class Halved(Dataset):
    """A skorch Dataset with a transform of its own."""

    def transform(self, x, y):
        return super().transform(x / 2, y)


def test_a_validation_set_keeps_its_transform():
    net = fitted(classifier(train_split=predefined_split(Halved(X, SIDES))), X, SIDES)
    assert net.history[-1]["valid_acc"] == net.score(X / 2, SIDES)
    loss = -np.log(net.predict_proba(X / 2)[range(16), CODES]).mean()
    assert net.history[-1]["valid_loss"] == pytest.approx(loss, rel=1e-5)


# Probabilities


def test_probabilities_are_those_that_the_loss_takes():
    net = fitted(classifier(), X, THREE)
    expected = net.forward(X).softmax(1).numpy()
    np.testing.assert_allclose(net.predict_proba(X), expected, rtol=1e-6)
    log = fitted(classifier(LogLinear, criterion=torch.nn.NLLLoss), X, THREE)
    assert_same(weights(net), weights(log))
    np.testing.assert_allclose(log.predict_proba(X), expected, rtol=1e-4)


def test_probabilities_of_crops():
    options = {"cropped": True, "criterion": CroppedLoss}
    for loss in (torch.nn.functional.cross_entropy, torch.nn.CrossEntropyLoss()):
        net = classifier(Crops, **options, criterion__loss_function=loss)
        expected = fitted(net, X, THREE).forward(X).mean(-1).softmax(1).numpy()
        np.testing.assert_allclose(net.predict_proba(X), expected, rtol=1e-5)
        np.testing.assert_array_equal(net.predict(X), net.classes_[expected.argmax(1)])
    net.set_params(aggregate_predictions=False)
    crops = net.predict_proba(X)
    assert crops.shape == (16, 3, 2)
    np.testing.assert_allclose(crops.sum(1), 1, rtol=1e-5)


def test_outputs_that_are_no_probabilities_are_not_given_as_such():
    net = fitted(classifier(criterion=torch.nn.MultiMarginLoss), X, THREE)
    message = "not probabilities.*criterion=MultiMarginLoss.*predict_nonlinearity"
    with pytest.raises(ValueError, match=message):
        net.predict_proba(X)
    np.testing.assert_array_equal(
        net.predict(X), net.classes_[net.forward(X).numpy().argmax(1)]
    )
    net.set_params(predict_nonlinearity=functools.partial(torch.softmax, dim=1))
    np.testing.assert_allclose(net.predict_proba(X).sum(1), 1, rtol=1e-5)


# Weights of classes


Y_RARE = np.array(["rare"] * 3 + ["common"] * 13)


@pytest.mark.parametrize(
    ("class_weight", "expected"),
    [
        ("balanced", [16 / 2 / 13, 16 / 2 / 3]),
        ({"rare": 4, "common": 0.5}, [0.5, 4.0]),
        ({"rare": 3}, [1.0, 3.0]),
    ],
)
def test_weights_are_those_of_the_loss(class_weight, expected):
    rare = (Y_RARE == "rare").astype(int)
    net = fitted(classifier(class_weight=class_weight), X, Y_RARE)
    np.testing.assert_allclose(net.criterion_.weight, expected)
    weight = torch.tensor(expected).float()
    stock = classifier(cls=EEGClassifier, criterion__weight=weight)
    fitted(stock, X, rare)
    assert_same(weights(net), weights(stock))
    net.set_params(lr=0).partial_fit(X, Y_RARE)
    losses = -np.log(net.predict_proba(X)[range(16), rare])
    by_hand = np.average(losses, weights=np.array(expected)[rare])
    with torch.no_grad():
        found = net.get_loss(net.forward(X), torch.tensor(rare))
    assert found.item() == pytest.approx(by_hand, rel=1e-5)
    # A class that is missing has a weight of 1.
    net = classifier(class_weight="balanced", classes=["a", "b", "c", "d"])
    known = compute_class_weight("balanced", classes=np.unique(THREE), y=THREE)
    np.testing.assert_allclose(net.fit(X, THREE).criterion_.weight, [*known, 1.0])


def test_weights_are_computed_again_in_every_call():
    net = classifier(class_weight="balanced", warm_start=True).fit(X, Y_RARE)
    before = net.criterion_.weight
    net.partial_fit(X[:6], Y_RARE[:6])
    np.testing.assert_allclose(net.criterion_.weight, [1, 1])
    assert torch.equal(net.fit(X, Y_RARE).criterion_.weight, before)
    net.set_params(class_weight={"rare": 2, "common": 1}).fit(X, Y_RARE)
    np.testing.assert_allclose(net.criterion_.weight, [1, 2])
    assert net.set_params(class_weight=None).fit(X, Y_RARE).criterion_.weight is None
    net.set_params(warm_start=False, class_weight="balanced").fit(X, Y_RARE)
    assert torch.equal(net.criterion_.weight, before)


class OwnLoss(torch.nn.Module):
    """Accepts a weight but does not expose it."""

    def __init__(self, weight):
        super().__init__()
        self.loss = torch.nn.CrossEntropyLoss(weight)

    def forward(self, outputs, targets):
        return self.loss(outputs, targets)


def test_a_loss_of_one_s_own_takes_weights_too():
    net = classifier(class_weight="balanced", criterion=OwnLoss)
    stock = classifier(class_weight="balanced")
    fitted(stock, X, Y_RARE)
    for _ in range(2):
        assert_same(weights(fitted(net, X, Y_RARE)), weights(stock))
    with pytest.raises(ValueError, match=r"has the attribute weight.*got OwnLoss"):
        net.partial_fit(X, Y_RARE)


def test_weights_for_the_targets_of_a_dataset():
    net = classifier(class_weight="balanced", classes=[0, 1])
    fitted(net, concat((Y_RARE == "rare").astype(int)), None)
    expected = fitted(classifier(class_weight="balanced"), X, Y_RARE)
    assert_same(weights(net), weights(expected))


def test_refuses_weights():
    for class_weight, message in (
        ([1, 2], r"'class_weight' .*'dict'.*'balanced'.* None. Got \[1, 2\]"),
        ({"left": 1, "right": 2, "up": 3}, r"of the classes \['left', 'right'\].*'up'"),
        ({"left": 0, "right": 1}, r"positive numbers.*got {'left': 0, 'right': 1}"),
    ):
        with pytest.raises(ValueError, match=message):
            classifier(class_weight=class_weight).fit(X, SIDES)
    for settings, message in (
        ({"criterion": torch.nn.CrossEntropyLoss()},
         r"class that takes a weight.*got criterion=CrossEntropyLoss\(\)"),
        ({"criterion__weight": torch.ones(2)},
         "got criterion__weight=tensor.*pass one of them"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            classifier(class_weight="balanced", **settings).fit(X, SIDES)
    with pytest.raises(TypeError, match="unexpected keyword argument 'weight'"):
        classifier(
            class_weight="balanced", criterion=torch.nn.MultiLabelMarginLoss
        ).fit(X, SIDES)


# With scikit-learn


def test_cross_validation_search_and_ensembles():
    net = classifier(classes=None, train_split=SubjectSplit(1, random_state=0),
                     callbacks=[EarlyStopping(patience=1)])  # fmt: skip
    windows = SubjectWindows(X, SUBJECTS)
    scores = cross_validate(
        net, windows, SIDES, groups=SUBJECTS, cv=GroupKFold(2), error_score="raise",
        scoring=["balanced_accuracy", "roc_auc", "neg_log_loss", "accuracy"],
    )  # fmt: skip
    assert np.isfinite(np.array(list(scores.values()))).all()
    plain = classifier()
    grid = {"class_weight": [None, "balanced", {"left": 1, "right": 2}], "lr": [0, 0.1]}
    search = GridSearchCV(plain, grid, cv=2, error_score="raise").fit(X, SIDES)
    assert search.classes_.tolist() == ["left", "right"]
    voting = VotingClassifier([("a", plain), ("b", plain)], voting="soft")
    voting.fit(X, SIDES)
    expected = np.mean([n.predict_proba(X) for n in voting.estimators_], axis=0)
    np.testing.assert_allclose(voting.predict_proba(X), expected)
    assert set(voting.predict(X)) <= {"left", "right"}
    calibrated = CalibratedClassifierCV(plain, cv=2).fit(X, SIDES)
    assert calibrated.predict_proba(X).shape == (16, 2)
    assert calibrated.classes_.tolist() == ["left", "right"]


# What WindowCheck says of labels


def checked(cls, **settings):
    return classifier(cls=cls, callbacks=[WindowCheck()], max_epochs=1, **settings)


@pytest.mark.parametrize("cls", [Classifier, EEGClassifier])
def test_labels_pass_the_check_of_the_data(cls):
    for data, shape in (((X, CODES), {}), ((Windows(CODES), None), SHAPE)):
        checked(cls, module__n_outputs=2, **shape).fit(*data)
        checked(cls, module__n_outputs=3, classes=[0, 1, 2], **shape).fit(*data)
    checked(Classifier).fit(X, SIDES)


def test_a_binary_classifier_passes_the_check_of_the_data():
    net = NeuralNetBinaryClassifier(
        Linear, callbacks=[WindowCheck()], train_split=None, max_epochs=1, verbose=0,
        module__n_outputs=1, **SHAPE,
    )  # fmt: skip
    net.fit(X, CODES.astype(np.float32))
    with pytest.raises(ValueError, match=r"y is constant \(\[1.0\] in all 16"):
        net.fit(X, np.ones(16, np.float32))


def test_the_number_of_classes_is_held_to_that_of_the_outputs():
    for cls, n_outputs, y, classes, n_found in (
        (Classifier, 3, SIDES, None, 2),
        (Classifier, 2, SIDES, ["left", "right", "up"], 3),
        (EEGClassifier, 2, np.tile([0, 1, 2, 1], 4), None, 3),
        (EEGClassifier, 2, CODES, [0, 1, 2], 3),
    ):
        net = checked(cls, module__n_outputs=n_outputs, classes=classes)
        message = f"n_outputs={n_found}, but the net .* module__n_outputs={n_outputs}"
        with pytest.raises(ValueError, match=message):
            net.fit(X, y)
        assert not net.history


def test_one_class_is_enough_where_all_are_known():
    one = np.zeros(16, dtype=int)
    for cls in (Classifier, EEGClassifier):
        checked(cls, classes=[0, 1]).fit(X, one)
    checked(Classifier).fit(X, CODES).partial_fit(X, one)
    with pytest.raises(ValueError, match=r"y is constant \(\[0\] in all 16 windows\)"):
        checked(EEGClassifier).fit(X, one)
    with pytest.raises(ValueError, match="y must hold labels, got nan for window 3"):
        checked(EEGClassifier).fit(X, np.where(np.arange(16) == 3, np.nan, CODES))


def test_a_net_that_diverged_says_so():
    net = make_classifier(**QUICK, **SHAPE).fit(X, SIDES)
    with torch.no_grad():
        net.module_.layer.weight.fill_(float("nan"))
    with pytest.warns(UserWarning, match="outputs for 16 of 16 windows are not finite"):
        net.predict(X)
    assert np.isnan(net.predict_proba(X)).all()


# Other tools of scikit-learn and skorch


def test_tags_say_that_windows_have_three_dimensions():
    for net in (make_regressor(), make_classifier()):
        tags = get_tags(net)
        assert tags.input_tags.three_d_array
        assert not tags.input_tags.two_d_array
        assert tags.non_deterministic


def test_a_trimmed_classifier_predicts_as_before():
    net = make_classifier(**QUICK, **SHAPE).fit(X, SIDES)
    expected = net.predict_proba(X), net.predict(X)
    for _ in range(2):
        net.trim_for_prediction()
        np.testing.assert_array_equal(net.predict_proba(X), expected[0])
        np.testing.assert_array_equal(net.predict(X), expected[1])
    copied = pickle.loads(pickle.dumps(net))
    np.testing.assert_array_equal(copied.predict_proba(X), expected[0])


def test_labels_of_a_dataset_may_have_a_column():
    """As those that subject_target_windows gives for a trait of subjects."""
    options = QUICK | SHAPE | {"random_state": 0}
    column = Windows(CODES[:, None].astype(np.float32))
    net = make_classifier(**options).fit(column, y=None)
    expected = make_classifier(**options).fit(X, CODES)
    assert net.classes_.tolist() == [0, 1]
    assert_same(weights(net), weights(expected))


# Weights for scripts without this package


@pytest.mark.parametrize("module", ["FastEEGNeX", "FastEEGNet", "EEGNet"])
@pytest.mark.filterwarnings("ignore:.*even kernel lengths")
def test_a_stock_model_predicts_in_the_unit_of_the_targets(module):
    seconds = 0.5 + 0.1 * Y
    options = SMALL | SHAPE | {"module": module, "random_state": 0}
    scaled = TransformedTargetRegressor(
        make_regressor(**options), transformer=StandardScaler()
    )
    for estimator in (
        scaled,
        make_pipeline(FunctionTransformer(), scaled).fit(X, seconds),
    ):
        stock = stock_model(estimator)
        assert type(stock).__module__.startswith("braindecode.")
        assert type(stock).__name__ == module.removeprefix("Fast")
        script = type(stock)(n_chans=4, n_times=128, n_outputs=1)  # somebody else's
        script.load_state_dict(stock.state_dict())
        with torch.no_grad():
            found = script.eval()(torch.as_tensor(X))[:, 0].numpy()
        np.testing.assert_allclose(found, estimator.predict(X), rtol=1e-4, atol=1e-5)


def test_a_plain_net_as_a_stock_model():
    net = make_classifier(**SMALL, module="FastEEGNet").fit(X, SIDES)
    stock = stock_model(net)
    with torch.no_grad():
        found = stock(torch.as_tensor(X)).softmax(1).numpy()
    np.testing.assert_allclose(found, net.predict_proba(X), rtol=1e-4, atol=1e-6)


class OwnForward(FastEEGNeX):
    """Scales its windows."""

    def forward(self, x):
        return super().forward(x / 20)


@pytest.mark.parametrize(
    "module", [OwnForward, functools.partial(FastEEGNeX, activation=torch.nn.ReLU)]
)
def test_a_stock_model_of_another_model_is_refused(module):
    net = Regressor(module, module__n_chans=4, module__n_times=64, module__n_outputs=1)
    with pytest.raises(TypeError, match="computes something else than EEGNeX"):
        stock_model(net.initialize())


def test_stock_models_that_would_predict_wrongly_are_refused():
    net = make_regressor(**SMALL, **SHAPE)
    for transformer, message in (
        (QuantileTransformer(n_quantiles=8), "must be linear.*QuantileTransformer"),
        (
            FunctionTransformer(lambda y: y / 1e4, lambda y: 1e4 * y),
            "cannot hold the sc",
        ),
    ):
        scaled = TransformedTargetRegressor(net, transformer=transformer)
        scaled.fit(X, 1e4 * Y)
        with torch.no_grad():  # a weight at its bound
            last = scaled.regressor_.module_.final_layer
            last.parametrizations.weight.original.mul_(100)
        with pytest.raises(ValueError, match=message):
            stock_model(scaled)
    bounded = TransformedTargetRegressor(
        net, func=lambda y: y, inverse_func=lambda y: np.maximum(y, -2),
        check_inverse=False,
    )  # fmt: skip
    with pytest.raises(ValueError, match="must be linear"):
        stock_model(bounded.fit(X, Y))
    instance = make_regressor(**SMALL, module=Linear(4, 128, 1)).fit(X, Y)
    with pytest.raises(TypeError, match="got an instance of Linear"):
        stock_model(instance)
    with pytest.raises(TypeError, match="must hold a fitted net, got LinearRegression"):
        stock_model(LinearRegression())
    with pytest.raises(TypeError, match="must be a model of braindecode, got Linear"):
        stock_model(make_regressor(**QUICK, **SHAPE).fit(X, Y))
