"""SeparableEEGNet: what a team's notes print as EEGNeX's layers, and what is not it."""

from __future__ import annotations

from typing import Any

import torch
from braindecode.models.base import EEGModuleMixin

from braindecode_sam._arguments import check_integer

N_FILTERS = 8


class SeparableEEGNet(EEGModuleMixin, torch.nn.Module):
    """A temporal, a spatial and a pointwise convolution, then the mean over time.

    As listed in a competition team's notes of October 2025: convolution 1 to 8 along
    time, depthwise over all channels, pointwise 8 to p, each with BatchNorm. The notes
    show no activation, without which the mean over time would see nothing but each
    channel's own mean; here ELU follows the second and the third BatchNorm.

    Parameters
    ----------
    n_outputs : int
        Number of outputs.
    n_chans : int
        Number of EEG channels.
    n_times : int
        Samples of a window. The number of parameters does not depend on it.
    kernel_length : int, default=32
        Taps of the temporal filters; the notes have 32 for Challenge 1, 64 for 2.
    n_pointwise : int, default=16
        Outputs p of the pointwise convolution; 16 for Challenge 1, 32 for 2.
    activation : type, default=torch.nn.ELU
        Class of the activations.
    chs_info, input_window_seconds, sfreq
        As for all of braindecode's models.

    Raises
    ------
    TypeError, ValueError
        If `kernel_length` or `n_pointwise` is not an integer from 1 up.

    Examples
    --------
    >>> from braindecode_sam.models import SeparableEEGNet
    >>> model = SeparableEEGNet(n_chans=72, n_times=500, n_outputs=1)
    >>> sum(p.numel() for p in model.parameters())
    1041
    """

    n_chans: int
    n_outputs: int

    def __init__(
        self,
        n_outputs: int | None = None,
        n_chans: int | None = None,
        n_times: int | None = None,
        kernel_length: int = 32,
        n_pointwise: int = 16,
        activation: type[torch.nn.Module] = torch.nn.ELU,
        chs_info: Any = None,
        input_window_seconds: float | None = None,
        sfreq: float | None = None,
    ) -> None:
        super().__init__(
            n_outputs=n_outputs,
            n_chans=n_chans,
            n_times=n_times,
            chs_info=chs_info,
            input_window_seconds=input_window_seconds,
            sfreq=sfreq,
        )
        taps = check_integer("kernel_length", kernel_length, 1)
        n_pointwise = check_integer("n_pointwise", n_pointwise, 1)
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(
                1, N_FILTERS, (1, taps), padding=(0, taps // 2), bias=False
            ),
            torch.nn.BatchNorm2d(N_FILTERS),
            torch.nn.Conv2d(
                N_FILTERS, N_FILTERS, (self.n_chans, 1), groups=N_FILTERS, bias=False
            ),
            torch.nn.BatchNorm2d(N_FILTERS),
            activation(),
            torch.nn.Conv2d(N_FILTERS, n_pointwise, 1, bias=False),
            torch.nn.BatchNorm2d(n_pointwise),
            activation(),
        )
        self.final_layer = torch.nn.Linear(n_pointwise, self.n_outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Predict.

        Parameters
        ----------
        x : torch.Tensor of shape (batch, n_chans, n_times)
            Windows.

        Returns
        -------
        y : torch.Tensor of shape (batch, n_outputs)
            Predictions.
        """
        return self.final_layer(self.layers(x[:, None]).mean(dim=(-2, -1)))
