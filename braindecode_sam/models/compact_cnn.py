"""CompactCNN, the baseline of the competition notes."""

from __future__ import annotations

from typing import Any

import torch
from braindecode.models.base import EEGModuleMixin

BLOCKS = ((32, 7, 0.3), (64, 5, 0.4), (128, 3, 0.5))  # filters, taps, dropout
HEAD = ((64, 0.5), (32, 0.4))  # units, dropout


class CompactCNN(EEGModuleMixin, torch.nn.Module):
    """Baseline of three convolutions over time and two hidden layers.

    Each block has a convolution over time and all channels with stride 2, BatchNorm,
    ReLU and dropout. Two hidden layers follow the mean over time.

    Parameters
    ----------
    n_outputs : int
        Number of outputs.
    n_chans : int
        Number of EEG channels.
    n_times : int
        Number of samples in a window. The number of parameters does not depend on it.
    activation : type, default=torch.nn.ReLU
        Activation class.
    chs_info, input_window_seconds, sfreq
        As in all models of braindecode.

    See Also
    --------
    SeparableEEGNet : The other small model of the competition notes.

    Notes
    -----
    The architecture comes from the competition notes of October 2025. The notes do not
    state the padding. Here it is half of the kernel length.

    Examples
    --------
    >>> from braindecode_sam.models import CompactCNN
    >>> model = CompactCNN(n_chans=129, n_times=200, n_outputs=1)
    >>> sum(p.numel() for p in model.parameters())
    74753
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
        activation: type[torch.nn.Module] = torch.nn.ReLU,
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
        sizes = [self.n_chans, *(filters for filters, _, _ in BLOCKS)]
        self.blocks = torch.nn.Sequential(
            *(
                torch.nn.Sequential(
                    torch.nn.Conv1d(n_in, n_out, taps, stride=2, padding=taps // 2),
                    torch.nn.BatchNorm1d(n_out),
                    activation(),
                    torch.nn.Dropout(drop_prob),
                )
                for n_in, (n_out, taps, drop_prob) in zip(sizes, BLOCKS, strict=False)
            )
        )
        units = [sizes[-1], *(n for n, _ in HEAD)]
        self.head = torch.nn.Sequential(
            *(
                torch.nn.Sequential(
                    torch.nn.Linear(n_in, n_out), activation(), torch.nn.Dropout(p)
                )
                for n_in, (n_out, p) in zip(units, HEAD, strict=False)
            )
        )
        self.final_layer = torch.nn.Linear(units[-1], self.n_outputs)

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
        return self.final_layer(self.head(self.blocks(x).mean(dim=-1)))
