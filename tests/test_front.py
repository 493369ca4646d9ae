"""Patterns and filters of linear fronts, against planted sources and the models."""

import matplotlib.pyplot as plt
import mne
import numpy as np
import pytest
import torch
from braindecode.models import EEGITNet, EEGNet, EEGNeX, EEGTCNet, ShallowFBCSPNet
from scipy.signal import butter, sosfiltfilt

from braindecode_sam import make_classifier, speed_up
from braindecode_sam.front import linear_front

SFREQ, N_CHANS, N_TIMES = 100.0, 8, 400
RNG = np.random.default_rng(0)
INFO = mne.create_info(
    ["F3", "F4", "C3", "Cz", "C4", "P3", "P4", "Oz"], SFREQ, "eeg"
).set_montage("standard_1020")
SHAPE = {"n_chans": N_CHANS, "n_times": N_TIMES, "n_outputs": 2}


def correlation(first, second):
    return abs(np.corrcoef(first, second)[0, 1])


@pytest.fixture(scope="module")
def planted():
    """Windows with a rhythm at 11 Hz, and others of the same band elsewhere."""
    topography = RNG.normal(size=N_CHANS)
    band = butter(4, [9, 13], "bandpass", fs=SFREQ, output="sos")
    rhythm = sosfiltfilt(band, RNG.normal(size=(60, 1, N_TIMES)))
    others = RNG.normal(size=(N_CHANS, N_CHANS)) @ sosfiltfilt(
        band, RNG.normal(size=(60, N_CHANS, N_TIMES))
    )
    noise = others + 0.3 * RNG.normal(size=(60, N_CHANS, N_TIMES))
    return topography[:, None] * rhythm + noise, topography, noise


def test_a_planted_pattern_and_its_band_are_found(planted):
    """The weights that extract the source best look different."""
    X, topography, noise = planted
    model = EEGNet(**SHAPE, kernel_length=100, F1=1, D=1, drop_prob=0.0)
    time, space = [m for m in model.modules() if isinstance(m, torch.nn.Conv2d)][:2]
    covariance = np.cov(noise.transpose(1, 0, 2).reshape(N_CHANS, -1))
    best = np.linalg.solve(covariance, topography)
    taps = np.cos(2 * np.pi * 11 * (np.arange(100) - 50) / SFREQ) * np.hanning(100)
    with torch.no_grad():
        time.weight.copy_(torch.as_tensor(taps).reshape(time.weight.shape))
        weight = torch.as_tensor(best / np.linalg.norm(best))
        set_weight(space, weight.reshape(space.weight.shape))
    front = linear_front(model, X, SFREQ)
    assert front.patterns.shape == (1, N_CHANS)
    assert front.freqs[front.gains[0].argmax()] == pytest.approx(11, abs=0.2)
    assert correlation(front.patterns[0], topography) > 0.95
    assert correlation(front.weights[0], topography) < 0.8
    assert correlation(front.weights[0], best) > 0.999


def set_weight(layer, weight):
    """Set a weight, also under braindecode's max-norm."""
    original = getattr(layer, "parametrizations", None)
    (original.weight.original if original else layer.weight).copy_(weight)


def fronts_of(model, X):
    """What the layer after the front gets, without that of silence."""
    seen = []
    spatial = [m for m in model.modules() if isinstance(m, torch.nn.Conv2d)][1]
    hook = spatial.register_forward_hook(lambda m, args, out: seen.append(out))
    with torch.no_grad():
        model.eval()(torch.as_tensor(X))
        model(torch.zeros(1, N_CHANS, N_TIMES, dtype=torch.float64))
    hook.remove()
    return (seen[0] - seen[1])[:, :, 0].numpy()


def test_weights_and_filters_compute_what_the_model_computes(planted):
    X = planted[0][:4]
    model = EEGNet(**SHAPE).double()
    model(torch.as_tensor(X))  # statistics of BatchNorm
    front = linear_front(model, X, SFREQ)
    expected = fronts_of(model, X)
    projected = np.einsum("oc,bct->bot", front.weights, X)
    middle = N_TIMES // 2
    for b in range(4):
        for o in range(expected.shape[1]):
            found = np.convolve(projected[b, o], front.filters[o])[middle:]
            inner = slice(80, N_TIMES - 80)
            np.testing.assert_allclose(
                found[inner], expected[b, o][inner], rtol=1e-6, atol=1e-9
            )


def test_patterns_are_those_of_the_whole_window(planted):
    """Of a source that is there in the second half only, and in its scale."""
    X = planted[0].copy()
    X[:, 2, N_TIMES // 2 :] += 20 * RNG.normal(size=(60, N_TIMES // 2))
    model = EEGNet(**SHAPE).double()
    front = linear_front(model, X, SFREQ)
    seen = []
    layers = [m for m in model.modules() if isinstance(m, torch.nn.Conv2d)][:2]
    hooks = [
        layer.register_forward_hook(lambda m, args, out: seen.extend([args[0], out]))
        for layer in layers
    ]
    with torch.no_grad():
        model.eval()(torch.as_tensor(X))
    for hook in hooks:
        hook.remove()
    _, _, filtered, outputs = (tensor.numpy() for tensor in seen)
    outputs = outputs[:, :, 0]  # (n_windows, n_outputs, n_out)
    np.testing.assert_allclose(
        front.powers, outputs.var(axis=(0, 2)), rtol=1e-6
    )  # in the unit of the windows
    depth = outputs.shape[1] // filtered.shape[1]
    for output in range(outputs.shape[1]):
        channels = filtered[:, output // depth].transpose(1, 0, 2).reshape(N_CHANS, -1)
        signal = outputs[:, output].ravel()
        # Up to the sign and the scale of the filter, as weights have norm 1.
        expected = [np.cov(channel, signal)[0, 1] for channel in channels]
        found = front.patterns[output]
        cosine = found @ expected / np.linalg.norm(found) / np.linalg.norm(expected)
        assert abs(cosine) > 0.9999


def test_later_layers_of_the_size_of_the_channels_are_no_fronts():
    shape = {"n_chans": 12, "n_times": 400, "n_outputs": 2}  # 12 steps after pooling
    X = RNG.normal(size=(4, 12, 400))
    assert linear_front(EEGNet(**shape), X, SFREQ).patterns.shape == (16, 12)
    with pytest.raises(ValueError, match=r"several channels, got \(4, 1, 400\)"):
        linear_front(EEGNet(**shape), X[:, :1], SFREQ)


@pytest.mark.parametrize("cls", [EEGNet, EEGNeX, EEGITNet, ShallowFBCSPNet])
def test_stock_and_sped_up_models_have_the_same_front(cls, planted):
    model = cls(**SHAPE).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    front = linear_front(model, planted[0], SFREQ)
    assert model.training
    for key, value in model.state_dict().items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=0)
    speed_up(model, force=True)
    again = linear_front(model, planted[0], SFREQ)
    np.testing.assert_allclose(again.patterns, front.patterns, rtol=1e-3, atol=1e-4)
    assert ((front.shares > 0) & (front.shares <= 1 + 1e-9)).all()
    if cls is not ShallowFBCSPNet:  # which mixes several filters
        assert front.shares.min() > 0.999


def test_models_without_a_linear_front_are_refused(planted):
    with pytest.raises(ValueError, match="EEGTCNet is not linear before its convolu"):
        linear_front(EEGTCNet(**SHAPE), planted[0], SFREQ)
    last = torch.nn.Linear(N_CHANS * N_TIMES, 2)
    flat = torch.nn.Sequential(torch.nn.Flatten(), last)
    with pytest.raises(ValueError, match="no convolution over all 8 channels"):
        linear_front(flat, planted[0], SFREQ)


def test_a_fitted_net_is_plotted(planted):
    X = planted[0].astype("float32")
    net = make_classifier(
        device="cpu", module="FastEEGNet", max_epochs=1, batch_size=20, verbose=0
    ).fit(X, np.tile(["a", "b"], 30))
    figure = linear_front(net, X, SFREQ).plot(INFO, n_outputs=3)
    maps, curves = np.reshape(figure.axes, (2, 3))
    assert len({ax.get_title() for ax in maps}) == 3
    for ax in curves:
        (line,) = ax.get_lines()
        assert line.get_ydata().max() == 0
        assert line.get_xdata().max() == pytest.approx(SFREQ / 2, rel=0.01)
    plt.close(figure)
