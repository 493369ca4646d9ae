"""A module that trains quickly, for tests of what is around a model."""

import torch


class Linear(torch.nn.Module):
    """One layer on all samples of a window."""

    def __init__(self, n_chans, n_times, n_outputs):
        super().__init__()
        self.layer = torch.nn.Linear(n_chans * n_times, n_outputs)

    def forward(self, x):
        return self.layer(x.flatten(1))
