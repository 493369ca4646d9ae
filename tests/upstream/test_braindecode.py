"""What we would offer to braindecode: each marked test fails until it is fixed."""

import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from braindecode import EEGRegressor
from braindecode.models import EEGConformer, EEGNeX, EEGTCNet
from mne.utils import check_version
from torch.nn import functional as F  # noqa: N812
from torch.utils.flop_counter import FlopCounterMode

from tests.upstream.mark import until_fixed

X = np.random.default_rng(0).normal(size=(8, 3, 200)).astype("float32")
Y = np.arange(8, dtype="float32")
OPTIONS = {"max_epochs": 1, "batch_size": 4, "train_split": None, "verbose": 0}


@until_fixed(
    "braindecode", "let Conventions.fit in nets/_conventions.py return what fit returns"
)
def test_fit_returns_the_net():
    net = EEGRegressor("EEGNeX", **OPTIONS)
    assert net.fit(X, Y) is net


@until_fixed("braindecode", "remove Regressor.predict from nets/_regressor.py")
def test_predictions_have_the_shape_of_the_targets():
    net = EEGRegressor("EEGNeX", **OPTIONS)
    net.fit(X, Y)
    assert net.predict(X).shape == Y.shape


@until_fixed(
    "braindecode", "remove Regressor.get_loss from nets/_regressor.py", UserWarning
)
def test_partial_fit_takes_targets_without_a_column():
    net = EEGRegressor("EEGNeX", **OPTIONS)
    net.partial_fit(X, Y)  # torch warns of a (4, 1) and a (4,) tensor in one loss


@until_fixed("braindecode", "remove signal_args_set_ from nets/_conventions.py")
def test_partial_fit_keeps_the_module():
    shape = {"module__n_chans": 3, "module__n_times": 200, "module__n_outputs": 1}
    net = EEGRegressor("EEGNeX", **shape, **OPTIONS).initialize()
    module = net.module_  # net.load_params() would load weights into this one
    net.partial_fit(X, Y[:, None])
    assert net.module_ is module


@until_fixed("braindecode", "remove allow_pickling from models/fast.py", RuntimeError)
def test_a_model_with_a_max_norm_can_be_pickled():
    model = EEGNeX(n_chans=3, n_times=200, n_outputs=1)
    pickle.dumps(model)


@pytest.mark.skipif(not check_version("mne", "1.13"), reason="MNE does not warn yet")
@until_fixed(
    "braindecode",
    "remove the filters from braindecode_sam/__init__.py and setup.cfg",
    subprocess.CalledProcessError,
)
def test_the_import_warns_of_no_montage():
    options = ["-W", "error:Montage name:FutureWarning", "-c", "import braindecode"]
    subprocess.run([sys.executable, *options], check=True, capture_output=True)


def as_one_convolution(x, time, space):
    """Compute space(time(x)), two layers of EEGConformer, as one convolution."""
    spatial = space.weight[..., 0]  # (n_outputs, n_filters, n_chans)
    kernel = torch.einsum("ft,ofc->oct", time.weight[:, 0, 0], spatial)
    bias = space.bias + torch.einsum("f,ofc->o", time.bias, spatial)
    return F.conv1d(x[:, 0], kernel, bias)[:, :, None]


def make_conformer_layers():
    model = EEGConformer(n_chans=22, n_times=500, n_outputs=4)
    return model.patch_embedding.shallownet[:2], torch.randn(16, 1, 22, 500)


def test_one_convolution_computes_what_two_do():
    layers, x = make_conformer_layers()
    torch.testing.assert_close(as_one_convolution(x, *layers), layers(x))


@until_fixed("braindecode", "time FastEEGConformer again with benchmarks/speed_up.py")
def test_eegconformer_does_not_compute_more_than_one_convolution():
    layers, x = make_conformer_layers()
    with FlopCounterMode(display=False) as now:
        layers(x)
    with FlopCounterMode(display=False) as merged:
        as_one_convolution(x, *layers)
    assert now.get_total_flops() <= merged.get_total_flops()


@until_fixed("braindecode", "correct docs/limits.rst: EEGTCNet has a front")
def test_eegtcnet_has_no_activation_before_its_spatial_filters():
    model, seen = EEGTCNet(n_chans=3, n_times=200, n_outputs=2), []
    first, second = model.eegnet_tc.bn1, model.eegnet_tc.depthwise_conv
    first.register_forward_hook(lambda layer, args, output: seen.append(output))
    second.register_forward_pre_hook(lambda layer, args: seen.append(args[0]))
    model(torch.randn(4, 3, 200))
    assert torch.equal(*seen)
