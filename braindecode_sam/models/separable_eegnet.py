"""SeparableEEGNet, which the competition notes print as the layers of EEGNeX."""

from __future__ import annotations

from typing import Any

import torch
from braindecode.models.base import EEGModuleMixin

from braindecode_sam._arguments import check_integer

N_FILTERS = 8


class SeparableEEGNet(EEGModuleMixin, torch.nn.Module):
    """Small model of a temporal, a depthwise spatial and a pointwise convolution.

    The first convolution has 8 filters over time, the second is depthwise over all
    channels, and the third is pointwise. BatchNorm follows each, and an activation
    follows the second and the third. A linear layer follows the mean over time.

    Parameters
    ----------
    n_outputs : int
        Number of outputs.
    n_chans : int
        Number of EEG channels.
    n_times : int
        Number of samples in a window. The number of parameters does not depend on it.
    kernel_length : int, default=32
        Length of the temporal filters. The competition notes use 32 for Challenge 1,
        and 64 for Challenge 2.
    n_pointwise : int, default=16
        Outputs of the pointwise convolution. The competition notes use 16 for Challenge
        1 and 32 for Challenge 2.
    activation : type, default=torch.nn.ELU
        Activation class.
    chs_info, input_window_seconds, sfreq
        As in all models of braindecode.

    Raises
    ------
    TypeError, ValueError
        If `kernel_length` or `n_pointwise` is not a positive integer.

    See Also
    --------
    CompactCNN : The other small model of the competition notes.

    Notes
    -----
    The competition notes of October 2025 list these layers under the name EEGNeX, which
    has other layers [1]_. They list no activation. Without one, the mean over time
    would depend only on the mean of each channel.

    References
    ----------
    .. [1] Chen, Teng, Chen, Pan and Geyer (2024). Toward reliable signals decoding for
       electroencephalogram: A benchmark study to EEGNeX. Biomedical Signal Processing
       and Control, 87, 105475. https://doi.org/10.1016/j.bspc.2023.105475

    Examples
    --------
    >>> from braindecode_sam.models import SeparableEEGNet
    >>> model = SeparableEEGNet(n_chans=72, n_times=500, n_outputs=1)
    >>> sum(p.numel() for p in model.parameters())
    1041
    """

    # braindecode's notes would import the class from braindecode.models.
    _HUB_NOTES_TEMPLATE = ""

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
        """Compute the outputs.

        Parameters
        ----------
        x : torch.Tensor of shape (batch, n_chans, n_times)
            EEG windows.

        Returns
        -------
        y : torch.Tensor of shape (batch, n_outputs)
            Outputs.
        """
        return self.final_layer(self.layers(x[:, None]).mean(dim=(-2, -1)))
