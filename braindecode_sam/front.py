"""What the linear front of a model looks for: patterns over the scalp, and filters."""

from __future__ import annotations

import dataclasses
from typing import Any

import matplotlib.pyplot as plt
import mne
import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.floating]

MOST_WINDOWS = 256  # of which the covariance is computed
N_FREQS = 512


@dataclasses.dataclass(frozen=True)
class Front:
    """Outputs of a linear front, as :func:`linear_front` returns them.

    Attributes
    ----------
    patterns : ndarray of shape (n_outputs, n_chans)
        Topography of each output, in the unit of the windows, for an output whose
        standard deviation is 1.
    weights : ndarray of shape (n_outputs, n_chans)
        Spatial weights of each output, with norm 1.
    filters : ndarray of shape (n_outputs, n_taps)
        Impulse response of each output over time, with BatchNorm folded in. The
        impulse is in the middle of a window, so longer filters are cut off.
    freqs : ndarray of shape (n_freqs,)
        Frequencies in Hz.
    gains : ndarray of shape (n_outputs, n_freqs)
        Frequency response of the filters in dB.
    shares : ndarray of shape (n_outputs,)
        Share of an output's weights that one topography and one filter explain: 1 where
        a spatial convolution follows one filter, less where it mixes several.
    powers : ndarray of shape (n_outputs,)
        Variance of each output for the windows.
    """

    patterns: Floats
    weights: Floats
    filters: Floats
    freqs: Floats
    gains: Floats
    shares: Floats
    powers: Floats

    def plot(self, info: mne.Info, n_outputs: int = 6) -> Figure:
        """Plot the topography and the frequency response of each output.

        Parameters
        ----------
        info : mne.Info
            Channels of the windows, with their positions.
        n_outputs : int, default=6
            Number of outputs to show, those with the largest variance.

        Returns
        -------
        figure : matplotlib.figure.Figure
            Nothing is shown.
        """
        order = np.argsort(-self.powers)[:n_outputs]
        figure, axes = plt.subplots(
            2, len(order), figsize=(1.7 * len(order) + 0.6, 3.6), squeeze=False,
            height_ratios=[1.3, 1], layout="constrained", sharey="row", sharex="row",
        )  # fmt: skip
        for (above, below), output in zip(axes.T, order, strict=True):
            mne.viz.plot_topomap(
                self.patterns[output], info, axes=above, show=False, contours=0
            )
            above.set_title(f"output {output}", fontsize="small")
            below.plot(self.freqs, self.gains[output] - self.gains[output].max())
            below.set(xlabel="Hz", ylim=(-40, 3))
        axes[1, 0].set_ylabel("gain (dB)")
        return figure


def linear_front(net: Any, X: ArrayLike, sfreq: float) -> Front:
    """Describe what a model computes before its first nonlinearity.

    EEGNet-like models filter over time, normalize, and weigh the channels. All of that
    is linear, so each output is a topography and a filter. Spatial weights themselves
    are not interpretable: they also suppress what other sources have in common with
    the one that they extract. Multiplied by the covariance of the data they are [1]_.

    Parameters
    ----------
    net : skorch.NeuralNet or torch.nn.Module
        A fitted net, or a model. It is not modified.
    X : array-like of shape (n_windows, n_chans, n_times)
        Windows of the kind that the model was trained on.
    sfreq : float
        Sampling frequency in Hz.

    Returns
    -------
    front : Front
        Patterns, filters and frequency responses. ``front.plot(info)`` plots them.

    Raises
    ------
    ValueError
        If no convolution over all channels is found, or if what the model computes up
        to it is not linear.

    References
    ----------
    .. [1] Haufe et al. (2014). On the interpretation of weight vectors of linear models
       in multivariate neuroimaging. NeuroImage, 87, 96-110.
       https://doi.org/10.1016/j.neuroimage.2013.10.067

    Examples
    --------
    >>> import numpy as np
    >>> from braindecode_sam import FastEEGNeX
    >>> from braindecode_sam.front import linear_front
    >>> model = FastEEGNeX(n_chans=4, n_outputs=2, n_times=200)
    >>> X = np.random.default_rng(0).normal(size=(8, 4, 200))
    >>> front = linear_front(model, X, sfreq=100)
    >>> front.patterns.shape, front.gains.shape
    ((64, 4), (64, 513))
    """
    module = getattr(net, "module_", net)
    step = max(-(-len(X) // MOST_WINDOWS), 1)  # type: ignore[arg-type]
    X = np.asarray(X[::step], dtype=np.float64)  # type: ignore[index]
    if X.ndim != 3 or X.shape[1] < 2:
        raise ValueError(
            "X must have the shape (n_windows, n_chans, n_times) with several channels,"
            f" got {X.shape}"
        )
    _, n_chans, n_times = X.shape
    impulses = np.zeros((1 + n_chans, n_chans, n_times))
    middle = n_times // 2
    impulses[1:, :, middle] = np.eye(n_chans) * X.std()
    example = X[:1] - X[:1].mean()
    inputs = np.concatenate([impulses, example, 2 * example])
    outputs = _front_outputs(module, inputs) / X.std()  # (n_inputs, n_outputs, n_out)
    n_out = outputs.shape[-1]
    offset, responses = outputs[0], outputs[1:-2] - outputs[0]
    once, twice = outputs[-2:] - offset
    if not np.allclose(twice, 2 * once, rtol=1e-3, atol=1e-4 * np.abs(twice).max()):
        raise ValueError(
            f"the model {type(module).__name__} is not linear before its convolution"
            " over all channels, so that its outputs have no single pattern"
        )
    spatial, sizes, temporal = np.linalg.svd(
        np.moveaxis(responses, 1, 0), full_matrices=False
    )
    weights, filters = spatial[..., 0], sizes[:, :1] * temporal[:, 0]
    # The sign is arbitrary: the largest weight is positive.
    largest = np.take_along_axis(weights, np.abs(weights).argmax(1)[:, None], axis=1)
    weights, filters = weights * np.sign(largest), filters * np.sign(largest)
    n_fft = 2 * max(n_times, N_FREQS)
    spectra, transfers = np.fft.rfft(X, n_fft), np.fft.rfft(filters, n_fft)
    patterns, powers = [], []
    for weight, transfer in zip(weights, transfers, strict=True):
        # The impulse was in the middle of the window.
        filtered = np.fft.irfft(spectra * transfer, n_fft)[..., middle : middle + n_out]
        covariance = np.cov(np.moveaxis(filtered, 1, 0).reshape(n_chans, -1), ddof=0)
        covariance = covariance.reshape(n_chans, n_chans)
        powers.append(weight @ covariance @ weight)
        patterns.append(covariance @ weight / np.sqrt(powers[-1]))
    step = n_fft // (2 * N_FREQS)
    return Front(
        patterns=np.array(patterns),
        weights=weights,
        filters=filters,
        freqs=np.fft.rfftfreq(n_fft, 1 / sfreq)[::step],
        gains=20 * np.log10(np.abs(transfers[:, ::step]) + np.finfo(float).tiny),
        shares=sizes[:, 0] ** 2 / (sizes**2).sum(axis=1),
        powers=np.array(powers),
    )


@torch.no_grad()
def _front_outputs(module: torch.nn.Module, inputs: Floats) -> Floats:
    """Return the outputs of the innermost modules that merge all channels into one."""
    n_chans = inputs.shape[1]
    found: dict[torch.nn.Module, torch.Tensor] = {}

    def note(part: torch.nn.Module, args: Any, output: Any) -> None:
        signal: Any = args[0] if args else None
        tensors = (signal, output)
        if not all(isinstance(x, torch.Tensor) and x.ndim == 4 for x in tensors):
            return
        if any(inner in found for inner in part.modules()):
            return
        for axis in (2, 3):
            is_merged = signal.shape[5 - axis] > 1  # later layers have no channels
            if signal.shape[axis] == n_chans and output.shape[axis] == 1 and is_merged:
                found[part] = output.squeeze(axis).double().cpu()

    hooks = [part.register_forward_hook(note) for part in module.modules()]
    modes = [(part, part.training) for part in module.modules()]
    some = next(module.parameters())
    try:
        module.eval()
        module(torch.as_tensor(inputs, dtype=some.dtype, device=some.device))
    finally:
        for hook in hooks:
            hook.remove()
        for part, mode in modes:
            part.training = mode
    if not found:
        raise ValueError(
            f"{type(module).__name__} has no convolution over all {n_chans} channels"
        )
    return torch.cat(list(found.values()), dim=1).numpy()
