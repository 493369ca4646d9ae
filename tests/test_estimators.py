"""Configurations and the nets built from them."""

import json
import pickle
import re

import numpy as np
import pytest
import torch
from braindecode import EEGRegressor
from braindecode.augmentation import AugmentedDataLoader, GaussianNoise
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_validate
from skorch.callbacks import EarlyStopping, EpochScoring
from torch.utils.data import DataLoader

from braindecode_sam import (
    SAM,
    SCORING,
    SCORING_CLASSIFICATION,
    FastEEGNeX,
    TimeShift,
    augmentation,
    estimators,
    load_config,
    make_classifier,
    make_regressor,
)
from braindecode_sam.configs import TrainingConfig, config_names
from braindecode_sam.datasets import SubjectWindows
from braindecode_sam.model_selection import (
    SubjectSplit,
    nrmse_table,
    out_of_fold_predictions,
)
from braindecode_sam.nets import Classifier, Regressor
from tests.optim.helpers import assert_same

# The table of the competition notes, independent of the JSON files.
TABLE = {
    "challenge_1": (72, 500, 1, torch.optim.AdamW, 30, 32),
    "challenge_2": (104, 1000, 8, torch.optim.Adamax, 20, 16),
}
RNG = np.random.default_rng(0)
X = RNG.normal(size=(24, 5, 200)).astype(np.float32)
Y = RNG.normal(size=24).astype(np.float32)
SUBJECTS = np.repeat(np.arange(6), 4)
SMALL = {"module__n_chans": 5, "module__n_times": 200, "batch_size": 4, "max_epochs": 1}
SMALL |= {"verbose": 0, "device": "cpu"}


@pytest.mark.parametrize("name", TABLE)
def test_configurations_are_those_of_the_table(name):
    *shape, base, max_epochs, batch_size = TABLE[name]
    net = make_regressor(name, device="cpu").initialize()
    assert isinstance(net, EEGRegressor)
    module = net.module_
    assert type(module) is FastEEGNeX
    assert [module.n_chans, module.n_times, module.n_outputs] == shape
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


def test_parameter_counts():
    counts = []
    for name in TABLE:
        module = make_regressor(name, device="cpu").initialize().module_
        counts.append(sum(p.numel() for p in module.parameters()))
    assert counts == [58_777, 62_696]


def test_main_job_with_every_score():
    net = make_regressor("challenge_1", **SMALL)
    cv = GroupKFold(3)
    results = cross_validate(
        net, X, Y, groups=SUBJECTS, cv=cv, scoring=SCORING, error_score="raise",
        return_estimator=True, return_indices=True,
    )  # fmt: skip
    y_pred = out_of_fold_predictions(results, X)
    assert y_pred.shape == (24, 1)
    table = nrmse_table(Y, {"SAM": y_pred}, results["indices"]["test"])
    np.testing.assert_allclose(
        table["SAM, std"].iloc[:3], -results["test_neg_nrmse"], 1e-6
    )
    assert table.index.tolist() == ["fold 1", "fold 2", "fold 3", "mean", "pooled"]
    expected = np.sqrt(np.mean((y_pred[:, 0] - Y) ** 2)) / Y.std()
    assert table.loc["pooled", "SAM, std"] == pytest.approx(expected, rel=1e-6)
    history = results["estimator"][0].history
    assert np.isfinite(history[-1]["sharpness"])


def test_eight_outputs():
    net = make_regressor("challenge_2", **SMALL)
    y = RNG.normal(size=(24, 8)).astype(np.float32)
    scores = cross_validate(
        net,
        X,
        y,
        groups=SUBJECTS,
        cv=GroupKFold(2),
        scoring=SCORING,
        error_score="raise",
    )
    assert np.isfinite(scores["test_pearsonr"]).all()


def test_overrides():
    scoring = EpochScoring("r2", name="r2")
    net = make_regressor(
        "challenge_1",
        **SMALL,
        optimizer__base_optimizer=torch.optim.SGD,
        optimizer__base_optimizer__momentum=0.9,
        optimizer__rho=0.2,
        train_split=SubjectSplit(2),
        callbacks=[("r2", scoring)],
        module="EEGNet",
    ).initialize()
    assert type(net.optimizer_.base_optimizer) is torch.optim.SGD
    assert net.optimizer_.param_groups[0]["momentum"] == 0.9
    assert net.optimizer_.param_groups[0]["rho"] == 0.2
    assert [name for name, _ in net.callbacks] == ["window_check", "sam", "r2"]
    assert type(net.module_).__name__ == "EEGNet"


def test_another_optimizer_keeps_lr_and_weight_decay():
    net = make_regressor("challenge_1", **SMALL, optimizer=torch.optim.AdamW, lr=0.5)
    net.fit(X, Y)
    group = net.optimizer_.param_groups[0]
    assert (group["lr"], group["weight_decay"]) == (0.5, 0.01)
    assert "rho" not in group


def test_random_state_and_threads():
    net = make_regressor(random_state=5, callbacks__seed__n_threads=2, device="cpu")
    assert [name for name, _ in net.callbacks] == ["seed", "window_check", "sam"]
    seeded = clone(net).initialize_callbacks().get_params()
    assert seeded["callbacks__seed__random_state"] == 5
    assert seeded["callbacks__seed__n_threads"] == 2
    assert "seed" not in dict(make_regressor(device="cpu").callbacks)


def test_clone_and_grid_search():
    net = clone(make_regressor("challenge_1", **SMALL))
    search = GridSearchCV(net, {"optimizer__rho": [0.0, 0.1]}, cv=GroupKFold(2))
    search.fit(X, Y, groups=SUBJECTS)
    assert len(search.cv_results_["params"]) == 2


# Sources of configurations


def test_from_file_dict_and_model(tmp_path):
    config = load_config("challenge_1")
    assert load_config(config) is config
    contents = json.loads(config.model_dump_json())
    assert load_config(contents) == config
    contents["training"]["max_epochs"] = 7
    file = tmp_path / "mine.json"
    file.write_text(json.dumps(contents))
    assert make_regressor(file, device="cpu").max_epochs == 7
    assert make_regressor(str(file), device="cpu").max_epochs == 7
    assert config_names() == [*TABLE, "classification"]
    assert pickle.loads(pickle.dumps(config)) == config
    from braindecode.models.config import EEGNeXConfig  # which warns if it is first

    contents["model"] = EEGNeXConfig(n_chans=3, n_times=200, n_outputs=2)
    assert load_config(contents).model.n_times == 200


def test_a_configuration_may_leave_the_shape_to_the_data(tmp_path):
    config = load_config("classification")
    assert config.model.n_chans is None
    contents = json.loads(config.model_dump_json())
    assert contents["model"]["n_chans"] is None
    file = tmp_path / "mine.json"
    file.write_text(json.dumps(contents))
    assert load_config(file) == config
    net = make_classifier(file, **SMALL).fit(X, np.tile(["a", "b"], 12))
    module = net.module_
    assert [module.n_chans, module.n_times, module.n_outputs] == [5, 200, 2]


def changed(path, value):
    contents = json.loads(load_config("challenge_1").model_dump_json())
    *sections, key = path.split(".")
    section = contents
    for name in sections:
        section = section[name]
    section[key] = value
    return contents


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            "challenge_3",
            r"must be one of challenge_1, challenge_2, class.*got 'challenge_3'",
        ),
        (changed("epochs", 3), "epochs\n  Extra inputs are not permitted"),
        (changed("optimizer.momentum", 3), "optimizer.momentum\n  Extra inputs"),
        (changed("model.n_channels", 3), "model.n_channels\n  Extra inputs"),
        (
            changed("optimizer.rho", -1),
            "optimizer.rho\n.*greater than or equal to 0.*-1",
        ),
        (changed("optimizer.rho", float("nan")), "optimizer.rho\n.*finite number"),
        (changed("training.max_epochs", 0), "max_epochs\n.*greater than 0"),
        (changed("augmentation.max_shift", 2), "max_shift\n.*less than or equal to 1"),
        (
            changed("optimizer.base_optimizer", "torch.optim.Foo"),
            "base_optimizer\n.*Foo",
        ),
        (
            changed("training.criterion", "os.system"),
            r"training.criterion\n.*the name of a loss in torch.nn.*got 'os.system'",
        ),
        (changed("training.criterion", "torch.nn.Linear"), "got 'torch.nn.Linear'"),
        (changed("training.criterion", "torch.nn.functional.mse_loss"), "a loss in"),
        (
            changed("optimizer.base_optimizer", "never_imported.Adam"),
            r"an optimizer in torch.optim.*got 'never_imported.Adam'",
        ),
        (
            changed("model.activation", "os.abort"),
            "a layer in torch.nn.*got 'os.abort'",
        ),
        (changed("model.n_outputs", 0), "n_outputs must be an integer >= 1, got 0"),
        (changed("model.drop_prob", 2.0), "drop_prob must be between 0 and 1, got 2"),
        (changed("n_splits", 1), "n_splits\n.*greater than or equal to 2"),
        ({"name": "mine"}, "model\n  Field required"),
    ],
)
def test_refuses_configurations(config, message):
    with pytest.raises(ValueError, match=message):
        make_regressor(config, device="cpu")


@pytest.mark.parametrize("builder", [make_regressor, make_classifier])
def test_refuses_callbacks_that_are_not_a_list(builder):
    with pytest.raises(ValueError, match=r"callbacks must be a list .* got 'disable'"):
        builder(callbacks="disable")


def test_refuses_a_missing_file():
    with pytest.raises(FileNotFoundError, match=r"missing\.json"):
        load_config("missing.json")


@pytest.mark.parametrize("builder", [make_regressor, make_classifier])
@pytest.mark.parametrize(
    "optimizer", ["SAM", None, SAM([torch.nn.Parameter(torch.ones(1))])], ids=type
)
def test_refuses_optimizers_that_are_not_classes(builder, optimizer):
    message = rf"must be a class such as .*SAM.*, got {re.escape(repr(optimizer)[:5])}"
    with pytest.raises(TypeError, match=message):
        builder(optimizer=optimizer)


def test_refuses_devices_and_parameters():
    with pytest.raises(ValueError, match=r"device must be .*got 'tpu'"):
        make_regressor("challenge_1", device="tpu")
    with pytest.raises(ValueError, match=r"unexpected argument\(s\) learning_rate"):
        make_regressor("challenge_1", device="cpu", learning_rate=1).initialize()


def test_classes_of_ones_own_are_taken_from_a_dict():
    class MyLoss(torch.nn.MSELoss):
        pass

    config = load_config(changed("training.criterion", MyLoss))
    assert config.training.criterion is MyLoss
    contents = json.loads(config.model_dump_json())
    assert contents["training"]["criterion"].endswith("MyLoss")
    assert contents["optimizer"]["base_optimizer"] == "torch.optim.AdamW"
    with pytest.raises(ValueError, match=r"a loss in torch\.nn"):
        load_config(contents)  # a file names no code


# Both builders

BUILDERS = {
    "regressor": (make_regressor, "challenge_1", {}, Y),
    "classifier": (make_classifier, "classification", {}, np.where(Y > 0, "a", "b")),
    "classifier of challenge_1": (
        make_classifier,
        "challenge_1",
        {"criterion": torch.nn.CrossEntropyLoss},
        np.where(Y > 0, "a", "b"),
    ),
    "regressor of classification": (
        make_regressor,
        "classification",
        {"criterion": torch.nn.MSELoss},
        np.stack([Y, -Y], axis=1),
    ),
}
BOTH = pytest.mark.parametrize("name", ["regressor", "classifier"])


@pytest.mark.parametrize("name", BUILDERS)
def test_every_configuration_builds_both_with_a_loss_for_them(name):
    builder, config, settings, y = BUILDERS[name]
    net = builder(config, **SMALL, **settings).fit(X, y)
    assert type(net) is {"r": Regressor, "c": Classifier}[name[0]]
    n_outputs = 1 if name == "regressor" else 2
    assert net.module_.n_outputs == n_outputs
    assert type(net.module_) is FastEEGNeX
    assert type(net.optimizer_) is SAM
    assert [n for n, _ in net.callbacks] == ["window_check", "sam"]
    assert np.shape(net.predict(X)) == np.shape(y)


def test_the_configuration_of_classifiers():
    net = make_classifier(device="cpu")
    assert not {"module__n_chans", "module__n_times", "module__n_outputs"} & set(
        net.get_params()
    )
    assert net.criterion is torch.nn.CrossEntropyLoss
    assert (net.max_epochs, net.batch_size, net.lr) == (30, 32, 1e-3)
    options = ("base_optimizer", "rho", "adaptive", "weight_decay")
    values = [getattr(net, f"optimizer__{option}") for option in options]
    assert values == [torch.optim.AdamW, 0.05, False, 0.01]
    (noise,) = net.iterator_train__transforms  # and no TimeShift
    assert isinstance(noise, GaussianNoise)
    assert (noise.probability, noise.std) == (0.5, 0.01)


@pytest.mark.parametrize(
    ("builder", "config", "settings", "message"),
    [
        (
            make_classifier,
            "challenge_1",
            {},
            "make_classifier cannot train with MSELoss, given by"
            " config='challenge_1'; expected config='classification', or"
            " criterion=torch.nn.CrossEntropyLoss",
        ),
        (
            make_regressor,
            "classification",
            {},
            "make_regressor cannot train with CrossEntropyLoss, given by"
            " config='classification'; expected config='challenge_1' or 'challenge_2',"
            " or criterion=torch.nn.MSELoss",
        ),
        (
            make_classifier,
            "classification",
            {"criterion": torch.nn.L1Loss},
            "cannot train with L1Loss, given by criterion; expected config='class",
        ),
        (
            make_regressor,
            "challenge_2",
            {"criterion": torch.nn.NLLLoss()},
            "cannot train with NLLLoss, given by criterion; expected config='chall",
        ),
    ],
)
def test_refuses_the_losses_of_the_other_task(builder, config, settings, message):
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
    assert_same(*(n.fit(X, y).module_.state_dict() for n in (plain, by_file)))
    for wrong in ("none", 0.5, [0.5], noise.operation):
        with pytest.raises(TypeError, match="augmentation must be 'config', None or a"):
            builder(config, augmentation=wrong, **SMALL)


@BOTH
def test_no_shift_is_no_transform(name):
    builder, config, *_ = BUILDERS[name]
    contents = json.loads(load_config(config).model_dump_json())
    contents["augmentation"] = {"probability": 0, "max_shift": 0, "noise_std": 0}
    net = builder(contents, **SMALL)
    assert [type(t) for t in net.iterator_train__transforms] == [
        augmentation.GaussianNoise
    ]
    contents["augmentation"]["max_shift"] = 0.2
    shift, _ = builder(contents, **SMALL).iterator_train__transforms
    assert (shift.probability, shift.max_shift) == (0, 0.2)


@BOTH
def test_overrides_are_those_of_both(name):
    builder, config, _, y = BUILDERS[name]
    net = builder(
        config, **SMALL, optimizer=torch.optim.AdamW, lr=0.5, random_state=3,
        callbacks=[EarlyStopping(patience=2)], module="EEGNet",
        train_split=SubjectSplit(2, random_state=0), callbacks__seed__n_threads=1,
    )  # fmt: skip
    assert [n for n, _ in net.callbacks[:2]] == ["seed", "window_check"]
    net.fit(SubjectWindows(X, SUBJECTS), y)
    group = net.optimizer_.param_groups[0]
    assert (group["lr"], group["weight_decay"]) == (0.5, 0.01)
    assert type(net.module_).__name__ == "EEGNet"
    assert np.isfinite(net.history[-1]["valid_loss"])
    assert clone(net).callbacks[0][1].random_state == 3


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


def test_the_nets_are_found_where_they_were():
    assert estimators.Regressor is Regressor
    assert estimators.Classifier is Classifier


# Bad data, before any training


@pytest.mark.parametrize(
    ("data", "target", "message"),
    [
        (
            X[:, :4],
            Y,
            r"have n_chans=4, but the net is configured for module__n_chans=5",
        ),
        (X[..., :100], Y, "have n_times=100"),
        (X, np.stack([Y, Y], 1), "have n_outputs=2"),
        (X, np.zeros(24), "y is constant"),
        (np.where(X > 2, np.nan, X), Y, "window [0-9]+ holds NaN"),
    ],
)
def test_refuses_data(data, target, message):
    net = make_regressor("challenge_1", **SMALL)
    with pytest.raises(ValueError, match=message):
        net.fit(data, target)
    assert not net.history
    with pytest.raises(ValueError, match=message):  # the same inside cross_validate
        cross_validate(net, data, target, groups=SUBJECTS, cv=GroupKFold(2))


def test_out_of_fold_predictions_need_estimators():
    with pytest.raises(
        ValueError, match=r"results must have the key 'estimator'.*; call cross_valid"
    ):
        out_of_fold_predictions({"test_score": []}, X)


def test_configuration_model_is_documented():
    assert "at every level" in TrainingConfig.__doc__
