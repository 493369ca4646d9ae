"""Contracts of skorch and scikit-learn for optimizers, tested with SAM.

Each test runs for braindecode's regressor and for this package's classifier, which has
text for labels.
"""

import copy
import pickle

import numpy as np
import pytest
import torch
from braindecode import EEGRegressor
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, KFold, cross_val_predict
from skorch.callbacks import (
    Checkpoint,
    Freezer,
    GradientNormClipping,
    LoadInitState,
    LRScheduler,
    TrainEndCheckpoint,
    Unfreezer,
)

from braindecode_sam import SAM
from braindecode_sam.callbacks import WindowCheck
from braindecode_sam.nets import Classifier
from braindecode_sam.optim import FriendlySAM
from tests.optim.helpers import assert_same

RNG = np.random.default_rng(0)
X = RNG.normal(size=(24, 3, 100)).astype(np.float32)
Y = RNG.normal(size=24).astype(np.float32)


class Host:
    """A kind of net, and targets for it."""

    def __init__(self, cls, y, y_partial, **options):
        self.cls, self.y, self.y_partial, self.options = cls, y, y_partial, options

    def net(self, optimizer=SAM, **options):
        defaults = {"max_epochs": 1, "batch_size": 6, "lr": 1e-3, "verbose": 0}
        defaults |= {"train_split": None, **self.options}
        return self.cls("FastEEGNet", optimizer=optimizer, **(defaults | options))

    def fitted(self, *args, **options):
        torch.manual_seed(0)
        net = self.net(*args, **options)
        net.fit(X, self.y)
        return net

    def continued(self, net):
        torch.manual_seed(1)
        net.partial_fit(X, self.y_partial)
        return net.module_.state_dict()


TEXT = np.where(Y > 0, "right", "left")
HOSTS = {
    # It makes columns of targets in fit, not in partial_fit.
    "regressor": Host(EEGRegressor, Y, Y[:, None]),
    "classifier": Host(Classifier, TEXT, TEXT, classes=["left", "right"]),
}


@pytest.fixture(params=HOSTS)
def host(request):
    return HOSTS[request.param]


def test_partial_fit_goes_on_and_fit_begins_anew(host):
    net = host.fitted()
    first = copy.deepcopy(net.module_.state_dict())
    host.continued(net)
    assert (len(net.history), net.optimizer_.n_steps) == (2, 8)
    torch.manual_seed(0)
    net.fit(X, host.y)
    assert_same(first, net.module_.state_dict())
    assert (len(net.history), net.optimizer_.n_steps) == (1, 4)


@pytest.mark.parametrize("cls", [SAM, FriendlySAM])
def test_saved_parameters_resume(host, cls, tmp_path):
    files = {f"f_{part}": tmp_path / f"{part}.pt" for part in ("params", "optimizer")}
    files["f_history"] = tmp_path / "history.json"
    net = host.fitted(cls, optimizer__interval=3)
    net.save_params(**files)
    other = host.fitted(cls, optimizer__interval=3, lr=0.5)
    other.load_params(**files)
    assert_same(host.continued(net), host.continued(other))
    assert other.optimizer_.param_groups[0]["lr"] == 1e-3
    assert len(other.history) == 2


def test_set_params_before_initialize_after_it_and_after_fit(host):
    net = host.net().set_params(optimizer__rho=0.2, optimizer__adaptive=True)
    net.fit(X, host.y)
    assert net.optimizer_.param_groups[0]["rho"] == 0.2
    net.set_params(optimizer__rho=0.3, optimizer__interval=2)
    host.continued(net)
    group = net.optimizer_.param_groups[0]
    assert (group["rho"], group["interval"]) == (0.3, 2)
    # To skorch, what is set now is only for the optimizer that it has: a later fit of
    # this net forgets it. Known limits in the README say so, and what to do.
    net.fit(X, host.y)
    assert net.optimizer_.param_groups[0]["rho"] == 0.2
    options = {"optimizer__base_optimizer": torch.optim.SGD}
    with pytest.raises(ValueError, match=r"SGD.* was set on an existing.*clone\(net\)"):
        host.continued(net.set_params(**options))
    changed = clone(host.net()).set_params(**options)
    changed.fit(X, host.y)
    assert type(changed.optimizer_.base_optimizer) is torch.optim.SGD


def test_clones_copies_and_pickles_train_the_same(host):
    net = host.net(optimizer__rho=0.3, optimizer__base_optimizer=torch.optim.SGD)
    parameters = clone(net).get_params()
    assert (parameters["optimizer"], parameters["optimizer__rho"]) == (SAM, 0.3)
    net = pickle.loads(pickle.dumps(net))
    net.fit(X, host.y)
    others = [copy.deepcopy(net), pickle.loads(pickle.dumps(net))]
    expected = net.predict(X)
    state = host.continued(net)
    for other in others:
        np.testing.assert_array_equal(expected, other.predict(X))
        assert_same(state, host.continued(other))


def test_a_grid_search_sets_rho_and_base(host):
    grid = {
        "optimizer__rho": [0.0, 0.1],
        "optimizer__base_optimizer": [torch.optim.AdamW, torch.optim.Adamax],
    }
    search = GridSearchCV(host.net(), grid, cv=KFold(2), error_score="raise")
    search.fit(X, host.y)
    chosen = search.best_estimator_.optimizer_
    assert chosen.param_groups[0]["rho"] == search.best_params_["optimizer__rho"]
    base = search.best_params_["optimizer__base_optimizer"]
    assert type(chosen.base_optimizer) is base
    predicted = cross_val_predict(search.best_estimator_, X, host.y, cv=KFold(2))
    assert len(predicted) == 24


LR = torch.optim.lr_scheduler
SCHEDULES = [
    (LR.StepLR, {"step_size": 1, "gamma": 0.5}),
    (LR.OneCycleLR, {"max_lr": 0.1, "total_steps": 9, "step_every": "batch"}),
    (LR.CyclicLR, {"base_lr": 1e-4, "max_lr": 0.1, "step_every": "batch"}),
    (
        LR.ReduceLROnPlateau,  # with a threshold that no loss reaches
        {"patience": 0, "monitor": "train_loss", "threshold": 9.0, "factor": 0.5},
    ),
]


def test_learning_rate_schedulers_do_what_they_do_without_sam(host):
    for policy, options in SCHEDULES:
        rates = []
        for optimizer in (torch.optim.AdamW, SAM):
            callbacks = [LRScheduler(policy, **options)]
            net = host.fitted(optimizer, max_epochs=2, callbacks=callbacks)
            rates.append(net.optimizer_.param_groups[0]["lr"])
        assert rates[0] == rates[1] != 1e-3, policy


def test_gradients_are_clipped_in_both_passes(host):
    limit, seen = 1e-3, []
    net = host.net(callbacks=[GradientNormClipping(limit)])

    def look(base, args, kwargs):
        clean = net.optimizer_.last_grad_norm
        grads = [p.grad for p in net.module_.parameters()]
        seen.append((float(clean), float(torch.nn.utils.get_total_norm(grads))))

    def begin(net, **kwargs):
        net.optimizer_.base_optimizer.register_step_pre_hook(look)

    net.on_train_begin = begin
    net.fit(X, host.y)
    assert seen == [pytest.approx((limit, limit), rel=1e-2)] * 4


def test_frozen_layers_stay_until_they_are_unfrozen(host):
    moved = {}
    for epoch in (None, 2):
        thawing = [Freezer("conv_temporal*")]
        thawing += [Unfreezer("conv_temporal*", at=epoch)] if epoch else []
        before = host.fitted(max_epochs=0).module_.state_dict()
        net = host.fitted(callbacks=thawing, max_epochs=2)
        moved[epoch] = {
            name.split(".")[0]
            for name, p in net.module_.named_parameters()
            if not torch.equal(p, before[name])
        }
    assert moved[None]
    assert moved[2] - moved[None] == {"conv_temporal"}


def test_checkpoints_and_the_initial_state(host, tmp_path):
    checkpoint = Checkpoint(monitor=None, dirname=str(tmp_path), f_criterion=None)
    end = TrainEndCheckpoint(dirname=str(tmp_path), fn_prefix="end_", f_criterion=None)
    net = host.fitted(callbacks=[checkpoint, end], max_epochs=2)
    final = copy.deepcopy(net.module_.state_dict())
    other = host.net(lr=0.5, callbacks=[LoadInitState(end)], max_epochs=0)
    # A net that was initialized only: it loads when the module has its shape.
    other.partial_fit(X, host.y_partial)
    assert_same(final, other.module_.state_dict())
    assert other.optimizer_.param_groups[0]["lr"] == 1e-3
    assert (len(other.history), other.optimizer_.n_steps) == (2, 8)
    net.load_params(checkpoint=checkpoint)
    assert net.optimizer_.n_steps == 8


def test_a_pattern_that_matches_no_parameter_is_refused(host):
    options = {"optimizer__param_groups": [("*.scale", {"rho": 0.0})]}
    message = r"'\*.scale' for \{'rho': 0.0\}, which matches none.*parametrizations"
    with pytest.raises(ValueError, match=message):
        host.fitted(callbacks=[WindowCheck()], **options)
    host.fitted(callbacks=[WindowCheck()], optimizer__param_groups=[("*bias", {})])
