"""A parameter group of a SAM behaves like a dict."""

import copy
import pickle

import pytest
import torch

from braindecode_sam.optim import SAM
from braindecode_sam.optim._options import Options
from tests.optim.helpers import small_net

CHECKS = {"rho": None, "interval": None}


def make_options():
    return Options({"rho": 0.05}, {"lr": 0.1, "rho": 0.9}, CHECKS)


def make_dict():
    return {"rho": 0.05, "lr": 0.1, "base_optimizer__rho": 0.9}


def write_over(options):
    options |= {"lr": 0.3, "rho": 0.1}
    return options


def delete(options):
    del options["lr"]
    return options


@pytest.mark.parametrize(
    "use",
    [
        repr,
        len,
        list,
        lambda options: list(reversed(options)),
        lambda options: list(options.items()),
        lambda options: options | {"rho": 1.0, "new": 2},
        lambda options: {"rho": 1.0, "new": 2} | options,
        lambda options: {**options},
        lambda options: options == make_dict(),
        lambda options: "rho" in options and "absent" not in options,
        lambda options: options.get("absent", 3),
        lambda options: options.setdefault("lr", 3),
        lambda options: options.copy(),
        copy.copy,
        copy.deepcopy,
        lambda options: pickle.loads(pickle.dumps(options)),
        lambda options: options.pop("lr"),
        write_over,
        delete,
    ],
)
def test_as_a_dict(use):
    options, plain = make_options(), make_dict()
    assert use(options) == use(plain)
    assert dict(options) == plain


def test_a_copy_is_plain_and_a_pickle_is_not():
    options = make_options()
    assert type(copy.copy(options)) is dict
    loaded = pickle.loads(pickle.dumps(options))
    loaded["base_optimizer__rho"] = 0.7
    assert (loaded.own, loaded.base) == ({"rho": 0.05}, {"lr": 0.1, "rho": 0.7})


def test_options_of_sam_can_be_neither_removed_nor_added():
    options = make_options()
    with pytest.raises(TypeError, match="rho is an option of SAM and cannot be"):
        del options["rho"]
    with pytest.raises(KeyError, match="interval"):
        options["interval"]
    with pytest.raises(ValueError, match="interval=2 was set on an existing optimizer"):
        options["interval"] = 2


@pytest.mark.parametrize("value", ["all", [0.5], (0, 1), 3])
def test_positions_to_perturb_are_lists_of_integers(value):
    optimizer = SAM(small_net().parameters(), torch.optim.SGD, lr=0.1)
    with pytest.raises(TypeError, match="must be None or a list of positions in the"):
        optimizer.param_groups[0]["perturbed"] = value
