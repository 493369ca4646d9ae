"""Configurations and the nets built from them."""

import json
import pickle
import re

import numpy as np
import pytest
import torch
from braindecode import EEGRegressor
from braindecode.augmentation import GaussianNoise
from sklearn.base import clone
from sklearn.model_selection import GroupKFold, cross_validate
from skorch.callbacks import EpochScoring
from torch.utils.data import DataLoader

from braindecode_sam import (
    SAM,
    SCORING,
    SCORING_CLASSIFICATION,
    FastEEGNet,
    FastEEGNeX,
    TimeShift,
    load_config,
    make_classifier,
    make_regressor,
)
from braindecode_sam.augmentation import AugmentedDataLoader
from braindecode_sam.datasets import SubjectWindows
from braindecode_sam.model_selection import SubjectSplit, out_of_fold_predictions
from braindecode_sam.nets import Classifier, Regressor

# The table of the competition notes, independent of the JSON files.
TABLE = {
    "challenge_1": (72, 500, 1, 58_777, torch.optim.AdamW, 30, 32),
    "challenge_2": (104, 1000, 8, 62_696, torch.optim.Adamax, 20, 16),
}
RNG = np.random.default_rng(0)
X = RNG.normal(size=(24, 5, 200)).astype(np.float32)
Y = RNG.normal(size=24).astype(np.float32)
SUBJECTS = np.repeat(np.arange(6), 4)
SMALL = {"module__n_chans": 5, "module__n_times": 200, "batch_size": 8, "max_epochs": 1}
SMALL |= {"verbose": 0, "device": "cpu"}


@pytest.mark.parametrize("name", TABLE)
def test_configurations_are_those_of_the_table(name):
    *shape, n_params, base, max_epochs, batch_size = TABLE[name]
    net = make_regressor(name, device="cpu").initialize()
    assert isinstance(net, EEGRegressor)
    module = net.module_
    assert type(module) is FastEEGNeX
    assert [module.n_chans, module.n_times, module.n_outputs] == shape
    assert sum(p.numel() for p in module.parameters()) == n_params
    assert type(net.optimizer_) is SAM
    assert type(net.optimizer_.base_optimizer) is base
    group = net.optimizer_.param_groups[0]
    values = [group[key] for key in ("lr", "weight_decay", "rho", "adaptive")]
    assert values == [1e-3, 0.01, 0.05, False]
    assert (net.max_epochs, net.batch_size) == (max_epochs, batch_size)
    assert net.criterion is torch.nn.MSELoss
    shift, noise = net.iterator_train__transforms
    assert net.iterator_train is AugmentedDataLoader
    assert isinstance(shift, TimeShift)
    assert isinstance(noise, GaussianNoise)
    assert (shift.max_shift, noise.std) == (0.1, 0.01)
    assert load_config(name).n_splits == 5


def test_main_job_with_every_score():
    results = cross_validate(
        make_regressor("challenge_1", **SMALL), X, Y, groups=SUBJECTS, cv=GroupKFold(2),
        scoring=SCORING, error_score="raise", return_estimator=True,
        return_indices=True,
    )  # fmt: skip
    y_pred = out_of_fold_predictions(results, X)[:, 0]
    for fold, test in enumerate(results["indices"]["test"]):
        error = np.sqrt(np.mean((y_pred[test] - Y[test]) ** 2)) / Y[test].std()
        assert results["test_neg_nrmse"][fold] == pytest.approx(-error, rel=1e-6)
    assert np.isfinite(results["estimator"][0].history[-1]["sharpness"])


def test_eight_outputs():
    y = np.random.normal(size=(24, 8)).astype(np.float32)
    net = make_regressor("challenge_2", **SMALL).fit(X, y)
    assert np.isfinite(SCORING["pearsonr"](net, X, y))


# Sources of configurations


def test_from_file_dict_and_model(tmp_path):
    config = load_config("challenge_1")
    assert load_config(config) is config
    contents = json.loads(config.model_dump_json())
    assert load_config(contents) == config
    contents["training"]["max_epochs"] = 7
    shape = {"n_chans": np.int64(3), "n_times": 200}
    assert load_config(contents | {"model": shape}).model.n_chans == 3
    file = tmp_path / "mine.json"
    file.write_text(json.dumps(contents))
    assert make_regressor(file, device="cpu").max_epochs == 7
    assert make_regressor(str(file), device="cpu").max_epochs == 7
    assert pickle.loads(pickle.dumps(config)) == config


def test_a_configuration_may_leave_the_shape_to_the_data(tmp_path):
    config = load_config("classification")
    assert config.model.n_chans is None
    contents = json.loads(config.model_dump_json())
    assert contents["model"]["n_chans"] is None
    file = tmp_path / "mine.json"
    file.write_text(json.dumps(contents))
    assert load_config(file) == config
    module = make_classifier(file, **SMALL).fit(X, SIDES).module_
    assert [module.n_chans, module.n_times, module.n_outputs] == [5, 200, 2]


def changed(path, value):
    contents = json.loads(load_config("challenge_1").model_dump_json())
    *sections, key = path.split(".")
    section = contents
    for name in sections:
        section = section[name]
    section[key] = value
    return contents


def test_refuses_configurations():
    for config, message in (
        ("challenge_3", "one of challenge_1, challenge_2, class.*got 'challenge_3'"),
        ({"name": "mine"}, "model\n  Field required"),
        (changed("epochs", 3), "epochs\n  Extra inputs are not permitted"),
        (changed("optimizer.momentum", 3), "optimizer.momentum\n  Extra inputs"),
        (changed("optimizer.rho", -1), "optimizer.rho\n.*or equal to 0.*-1"),
        (changed("optimizer.rho", float("nan")), "optimizer.rho\n.*finite number"),
        (changed("training.max_epochs", 0), "max_epochs\n.*greater than 0"),
        (changed("augmentation.max_shift", 2), "max_shift\n.*less than or equal to 1"),
        (changed("n_splits", 1), "n_splits\n.*greater than or equal to 2"),
        (
            changed("training.criterion", "os.system"),
            r"training.criterion\n.*Module, or its name in torch.nn.*got 'os.system'",
        ),
        (changed("training.criterion", "torch.nn.Module"), "got 'torch.nn.Module'"),
        (
            changed("optimizer.base_optimizer", "never_imported.Adam"),
            r"of Optimizer, or its name in torch.optim.*got 'never_imported.Adam'",
        ),
        (changed("model.activation", "os.abort"), "its name in torch.nn.*'os.abort'"),
        (changed("model", None), "model\n.*expected a dict, got None"),
        (changed("model.n_outputs", 0), "model.n_outputs\n.*greater than 0"),
        (changed("model.n_chans", True), "model.n_chans\n.*a valid integer"),
        (changed("model.dropout", 0.5), "model.dropout\n  Extra inputs"),
    ):
        with pytest.raises(ValueError, match=message):
            make_regressor(config, device="cpu")


@pytest.mark.parametrize("builder", [make_regressor, make_classifier])
def test_refuses_parameters(builder):
    with pytest.raises(ValueError, match=r"callbacks must be a list .* got 'disable'"):
        builder(callbacks="disable")
    with pytest.raises(FileNotFoundError, match=r"missing\.json"):
        builder("missing.json")
    with pytest.raises(ValueError, match=r"device must be .*got 'tpu'"):
        builder(device="tpu")
    with pytest.raises(ValueError, match=r"unexpected argument\(s\) learning_rate"):
        builder(**SMALL, module__n_outputs=2, learning_rate=1).initialize()
    for optimizer in ("SAM", None, SAM([torch.nn.Parameter(torch.ones(1))])):
        message = r"must be a class such as .*SAM.*, got "
        with pytest.raises(TypeError, match=message + re.escape(repr(optimizer)[:5])):
            builder(optimizer=optimizer)


def test_classes_of_ones_own_are_taken_from_a_dict():
    class MyLoss(torch.nn.MSELoss):
        pass

    config = load_config(changed("training.criterion", MyLoss))
    assert config.training.criterion is MyLoss
    contents = json.loads(config.model_dump_json())
    assert contents["training"]["criterion"].endswith("MyLoss")
    assert contents["optimizer"]["base_optimizer"] == "torch.optim.AdamW"
    with pytest.raises(ValueError, match=r"its name in torch\.nn"):
        load_config(contents)  # a file names no code


# Both builders

SIDES = np.where(Y > 0, "a", "b")
BUILDERS = {
    "regressor": (make_regressor, "challenge_1", {}, Y),
    "classifier": (make_classifier, "classification", {}, SIDES),
    "classifier of challenge_1": (
        make_classifier, "challenge_1", {"criterion": torch.nn.CrossEntropyLoss}, SIDES,
    ),
    "regressor of classification": (
        make_regressor, "classification", {"criterion": torch.nn.MSELoss},
        np.stack([Y, -Y], axis=1),
    ),
}  # fmt: skip
BOTH = pytest.mark.parametrize("name", ["regressor", "classifier"])


@pytest.mark.parametrize("name", BUILDERS)
def test_every_configuration_builds_both_with_a_loss_for_them(name):
    builder, config, settings, y = BUILDERS[name]
    net = builder(config, **SMALL, **settings).fit(X, y)
    assert type(net) is (Regressor if builder is make_regressor else Classifier)
    assert net.module_.n_outputs == (1 if name == "regressor" else 2)
    assert type(net.module_) is FastEEGNeX
    assert type(net.optimizer_) is SAM
    assert [n for n, _ in net.callbacks] == ["window_check", "sam"]
    assert np.shape(net.predict(X)) == np.shape(y)


def test_the_configuration_of_classifiers():
    net = make_classifier(device="cpu")
    assert not [name for name in net.get_params() if name.startswith("module__n_")]
    assert net.criterion is torch.nn.CrossEntropyLoss
    assert (net.max_epochs, net.batch_size, net.lr) == (30, 32, 1e-3)
    options = ("base_optimizer", "rho", "adaptive", "weight_decay")
    values = [getattr(net, f"optimizer__{option}") for option in options]
    assert values == [torch.optim.AdamW, 0.05, False, 0.01]
    (noise,) = net.iterator_train__transforms  # and no TimeShift
    assert isinstance(noise, GaussianNoise)
    assert (noise.probability, noise.std) == (0.5, 0.01)


def test_refuses_the_losses_of_the_other_task():
    for builder, config, settings, message in (
        (
            make_classifier, "challenge_1", {},
            "make_classifier cannot train with MSELoss, given by config='challenge_1';"
            " expected criterion=torch.nn.CrossEntropyLoss, or a configuration",
        ),
        (
            make_classifier, "classification", {"criterion": torch.nn.L1Loss},
            "cannot train with L1Loss, given by criterion; expected criterion=torch",
        ),
        (
            make_regressor, "challenge_2", {"criterion": torch.nn.NLLLoss()},
            "make_regressor cannot train with NLLLoss, given by criterion; expected"
            " criterion=torch.nn.MSELoss, or a configuration with such a loss",
        ),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=re.escape(message)):
            builder(config, device="cpu", **settings)


@BOTH
def test_augmentation_is_the_configuration_s_or_off_or_one_s_own(name):
    builder, config, _, y = BUILDERS[name]
    noise = GaussianNoise(1.0, std=0.1)
    for chosen in ([noise], noise, (noise,)):
        net = builder(config, augmentation=chosen, **SMALL)
        assert net.iterator_train is AugmentedDataLoader
        assert net.iterator_train__transforms == [noise]
    plain = builder(config, augmentation=None, random_state=0, **SMALL)
    assert plain.iterator_train is DataLoader
    assert "iterator_train__transforms" not in plain.get_params()
    contents = json.loads(load_config(config).model_dump_json())
    contents["augmentation"] = None
    by_file = builder(contents, random_state=0, **SMALL)
    assert by_file.iterator_train is DataLoader
    found, expected = (n.fit(X, y).predict(X) for n in (plain, by_file))
    np.testing.assert_array_equal(found, expected)
    for wrong in ("none", 0.5, [0.5], noise.operation):
        with pytest.raises(
            TypeError, match="augmentation must be 'config', None, or one"
        ):
            builder(config, augmentation=wrong, **SMALL)


def test_no_shift_is_no_transform():
    contents = json.loads(load_config("challenge_1").model_dump_json())
    contents["augmentation"] = {"probability": 0, "max_shift": 0, "noise_std": 0}
    (only,) = make_regressor(contents, device="cpu").iterator_train__transforms
    assert isinstance(only, GaussianNoise)
    contents["augmentation"]["max_shift"] = 0.2
    shift, _ = make_regressor(contents, device="cpu").iterator_train__transforms
    assert (shift.probability, shift.max_shift) == (0, 0.2)


@BOTH
def test_overrides_are_those_of_both(name):
    builder, config, _, y = BUILDERS[name]
    net = builder(
        config, **SMALL, optimizer__base_optimizer=torch.optim.SGD, lr=0.5,
        optimizer__base_optimizer__momentum=0.9, optimizer__rho=0.2, module="EEGNet",
        callbacks=[("r2", EpochScoring("r2", name="r2"))], random_state=3,
        train_split=SubjectSplit(2, random_state=0), n_threads=1,
    )  # fmt: skip
    names = [name for name, _ in net.callbacks]
    assert names == ["window_check", "sam", "r2"]
    params = clone(net).initialize_callbacks().get_params()
    assert params["random_state"] == 3
    assert params["n_threads"] == 1
    assert builder(config, device="cpu").random_state is None
    other = builder(
        config, **SMALL, module="EEGNet", optimizer=torch.optim.AdamW, lr=0.5,
        train_split=SubjectSplit(2, random_state=0),
    )  # fmt: skip
    other.fit(SubjectWindows(X, SUBJECTS), y)
    group = other.optimizer_.param_groups[0]
    assert (group["lr"], group["weight_decay"]) == (0.5, 0.01)
    assert "rho" not in group
    assert type(other.module_).__name__ == "EEGNet"
    assert np.isfinite(other.history[-1]["valid_loss"])
    group = net.set_params(module__n_outputs=2).initialize().optimizer_.param_groups[0]
    assert (group["momentum"], group["rho"]) == (0.9, 0.2)


def test_weights_of_classes_come_through_the_builder():
    net = make_classifier(class_weight="balanced", **SMALL)
    assert clone(net).class_weight == "balanced"
    y = np.repeat(["rare", "common"], [6, 18])
    np.testing.assert_allclose(net.fit(X, y).criterion_.weight, [24 / 36, 24 / 12])


def test_classification_with_every_score():
    y = np.tile(["left", "right", "rest"], 8)
    scores = cross_validate(
        make_classifier(**SMALL), X, y, groups=SUBJECTS, cv=GroupKFold(2),
        scoring=SCORING_CLASSIFICATION, error_score="raise",
    )  # fmt: skip
    for name in SCORING_CLASSIFICATION:
        assert np.isfinite(scores[f"test_{name}"]).all()


@pytest.mark.parametrize("config", ["challenge_1", "challenge_2"])
def test_a_configuration_takes_windows_of_any_shape(config):
    options = {key: SMALL[key] for key in SMALL if not key.startswith("module__n_")}
    for data, y in ((X, Y), (X[:, :3, :150], np.stack([Y, -Y], 1))):
        net = make_regressor(config, **options).fit(data, y)
        assert net.predict(data).shape == y.shape
    whole = make_regressor(config, device="cpu").initialize().module_
    model = load_config(config).model
    assert (whole.n_chans, whole.n_times) == (model.n_chans, model.n_times)
    assert whole.n_outputs == model.n_outputs


# Bad data, before any training


def test_refuses_data():
    net = make_regressor("challenge_1", **SMALL)
    for data, target, message in (
        (X[:, :4], Y, "n_chans=4, but the net is configured for module__n_chans=5"),
        (X[..., :100], Y, "have n_times=100"),
        (X, np.zeros(24), "y is constant"),
        (np.where(X > 2, np.nan, X), Y, "window [0-9]+ holds NaN"),
    ):
        with pytest.raises(ValueError, match=message):
            net.fit(data, target)
        assert not net.history
        with pytest.raises(ValueError, match=message):  # the same in cross_validate
            cross_validate(net, data, target, groups=SUBJECTS, cv=GroupKFold(2))


@pytest.mark.parametrize("builder", [make_regressor, make_classifier])
def test_an_instance_as_module_is_used_as_it_is(builder):
    n_outputs = 1 if builder is make_regressor else 2
    module = FastEEGNet(n_chans=X.shape[1], n_times=X.shape[2], n_outputs=n_outputs)
    y = Y if builder is make_regressor else Y > 0
    options = {"module": module, "max_epochs": 1, "batch_size": 4, "verbose": 0}
    net = builder(device="cpu", **options).fit(X, y)
    assert net.module_ is module
    assert net.partial_fit(X, y).module_ is module
    copied = clone(net).fit(X, y)
    assert copied.module_ is not module
    with pytest.raises(ValueError, match=r"instance of FastEEGNet.*module__n_times"):
        builder(device="cpu", module__n_times=64, **options).fit(X, y)


class OneOutput(torch.nn.Module):
    """Has none of the parameters of a configuration's model."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.LazyLinear(1)

    def forward(self, x):
        return self.layer(x.flatten(1))


def test_a_module_of_one_s_own_gets_only_what_it_takes():
    options = {"device": "cpu", "max_epochs": 1, "batch_size": 8, "verbose": 0}
    net = make_regressor("challenge_1", module=OneOutput, **options)
    assert not [name for name in net.get_params() if name.startswith("module__")]
    assert net.fit(X, Y).predict(X).shape == (24,)
    with pytest.raises(TypeError, match="unexpected keyword argument 'n_chans'"):
        make_regressor(module=OneOutput, module__n_chans=5, **options).fit(X, Y)
