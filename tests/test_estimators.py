"""Configurations and the nets made from them."""

import json

import numpy as np
import pytest
import torch
from braindecode import EEGRegressor
from braindecode.augmentation import AugmentedDataLoader, GaussianNoise
from sklearn.base import clone
from sklearn.ensemble import VotingRegressor
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_validate
from skorch.callbacks import EpochScoring

from braindecode_sam import (
    SAM,
    SCORING,
    FastEEGNeX,
    TimeShift,
    load_config,
    make_regressor,
)
from braindecode_sam.callbacks import SAMCallback, WindowCheck
from braindecode_sam.configs import TrainingConfig, config_names
from braindecode_sam.model_selection import (
    SubjectSplit,
    nrmse_table,
    out_of_fold_predictions,
)
from braindecode_sam.optim import LookSAM
from tests.optim.helpers import assert_same

# The table of the source document, typed in a second time.
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


# Where configurations come from


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
    assert config_names() == list(TABLE)


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
        ("challenge_3", "must be one of challenge_1, challenge_2.*got 'challenge_3'"),
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


def test_refuses_a_missing_file():
    with pytest.raises(FileNotFoundError, match=r"missing\.json"):
        load_config("missing.json")


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


# Nets by scikit-learn's conventions


def make_datasets(targets):
    """A windows dataset with the targets as they are."""

    class Windows(torch.utils.data.Dataset):
        def __len__(self):
            return len(X)

        def __getitem__(self, i):
            return X[i], targets[i]

    return Windows()


@pytest.mark.parametrize("kind", ["dataset", "partial_fit", "column"])
def test_targets_without_a_column_are_not_compared_with_all_of_a_batch(kind):
    weights = []
    for how in (kind, "fit"):
        net = make_regressor(random_state=0, **SMALL)
        if how == "dataset":
            net.fit(make_datasets(Y), y=None)
        elif how == "column":
            net.fit(make_datasets(Y[:, None]), y=None)
        elif how == "partial_fit":
            net.partial_fit(X, Y)
        else:
            net.fit(X, Y)
        weights.append(net.module_.state_dict())
    assert_same(*weights)


@pytest.mark.filterwarnings("ignore:Using a target size:UserWarning")  # torch's own
@pytest.mark.parametrize("callback", [WindowCheck, SAMCallback])
def test_stock_nets_are_told_of_a_missing_column(callback):
    options = {"optimizer": SAM, "train_split": None} | {
        name: SMALL[name] for name in ("batch_size", "max_epochs", "verbose")
    }
    net = EEGRegressor(
        "FastEEGNeX", module__n_outputs=1, callbacks=[callback()], **options
    )
    if callback is WindowCheck:
        with pytest.raises(ValueError, match="compare each target with every predic"):
            net.fit(make_datasets(Y), y=None)
    else:
        with pytest.warns(UserWarning, match=r"y\[:, None\]"):
            net.fit(make_datasets(Y), y=None)


def test_predictions_have_the_shape_of_the_targets():
    net = make_regressor(**SMALL)
    assert net.fit(X, Y) is net
    assert net.predict(X).shape == (24,)
    assert net.fit(X, Y[:, None]).predict(X).shape == (24, 1)
    assert net.partial_fit(X, Y).predict(X).shape == (24,)
    voting = VotingRegressor([("a", clone(net)), ("b", clone(net))]).fit(X, Y)
    assert voting.predict(X).shape == (24,)
    expected = np.mean([n.predict(X) for n in voting.estimators_], axis=0)
    np.testing.assert_allclose(voting.predict(X), expected, rtol=1e-5)


@pytest.mark.parametrize("how", ["warm_start", "partial_fit"])
def test_loaded_weights_are_trained_on(how, tmp_path):
    trained = make_regressor(**SMALL).fit(X, Y)
    trained.save_params(f_params=tmp_path / "weights.pt")
    net = make_regressor(warm_start=True, **SMALL).set_params(lr=0.0).initialize()
    net.set_params(optimizer__weight_decay=0.0)
    net.load_params(f_params=tmp_path / "weights.pt")
    (net.fit if how == "warm_start" else net.partial_fit)(X, Y)
    ours, theirs = (dict(n.module_.named_parameters()) for n in (net, trained))
    assert_same(ours, theirs)


def test_a_grid_over_optimizers():
    grid = {"optimizer": [SAM, torch.optim.AdamW, torch.optim.Adadelta]}
    net = make_regressor(**SMALL, optimizer__base_optimizer__amsgrad=True)
    search = GridSearchCV(net, grid, cv=2, error_score="raise").fit(X, Y)
    assert len(search.cv_results_["params"]) == 3
    other = clone(net).set_params(optimizer=torch.optim.Adadelta).fit(X, Y)
    group = other.optimizer_.param_groups[0]
    assert (group["rho"], group["weight_decay"]) == (0.9, 0.01)
    own = clone(net).set_params(optimizer=torch.optim.Adadelta, optimizer__rho=0.7)
    assert own.initialize().optimizer_.param_groups[0]["rho"] == 0.7


def test_options_come_back_with_the_optimizer():
    net = make_regressor("challenge_2", **SMALL, optimizer__rho=0.2)
    net.set_params(optimizer=torch.optim.Adadelta, optimizer__rho=0.9)
    net.set_params(optimizer=SAM)
    params = net.get_params()
    assert params["optimizer__rho"] == 0.2
    assert params["optimizer__base_optimizer"] is torch.optim.Adamax
    net.set_params(optimizer=LookSAM, optimizer__alpha=0.5).set_params(optimizer=SAM)
    y = RNG.normal(size=(24, 8)).astype(np.float32)
    assert "sharpness" in net.fit(X, y).history[-1]
    with pytest.raises(ValueError, match="of an initialized net cannot be set to"):
        net.set_params(optimizer=torch.optim.AdamW)
    assert net.optimizer is SAM


@pytest.mark.parametrize("first", ["callbacks__sam", "optimizer"])
def test_the_callback_of_sam_can_be_switched_off_too(first):
    off = {"callbacks__sam": None, "optimizer": torch.optim.AdamW}
    net = make_regressor(**SMALL).set_params(**{first: off.pop(first)})
    assert net.set_params(**off).fit(X, Y) is net


@pytest.mark.filterwarnings("ignore:The training set has:UserWarning")
def test_fewer_windows_than_a_batch_are_an_error():
    net = make_regressor(**(SMALL | {"batch_size": 25}))
    with pytest.raises(ValueError, match="trains on 24 windows, fewer than batch_size"):
        net.fit(X, Y)
    net = clone(net).set_params(iterator_train__drop_last=False).fit(X, Y)
    assert np.isfinite(net.history[-1]["train_loss"])


@pytest.mark.filterwarnings("ignore:The training set has:UserWarning")
def test_a_stock_net_that_trains_on_nothing_is_told():
    net = EEGRegressor(
        "FastEEGNeX", optimizer=SAM, callbacks=[SAMCallback()], batch_size=25,
        max_epochs=1, train_split=None, verbose=0,
    )  # fmt: skip
    with pytest.warns(UserWarning, match="No batch was trained on in epoch 1"):
        net.fit(X, Y)


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
        ValueError, match="results has no 'estimator'; call cross_valid"
    ):
        out_of_fold_predictions({"test_score": []}, X)


def test_configuration_model_is_documented():
    assert "refused at every level" in TrainingConfig.__doc__
