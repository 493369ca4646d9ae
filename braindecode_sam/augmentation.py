"""Augmentations of EEG windows that braindecode lacks, or that are faster here."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar

import numpy as np
import torch
from braindecode.augmentation import AugmentedDataLoader as _AugmentedDataLoader
from braindecode.augmentation import GaussianNoise as _GaussianNoise
from braindecode.augmentation import Transform
from torch.utils.data import get_worker_info

from braindecode_sam._arguments import check_non_negative

_Y = TypeVar("_Y")
_FRACTION = "a fraction between 0 and 1"


class TimeShift(Transform):
    """Shift each window circularly in time by a random amount.

    Parameters
    ----------
    probability : float
        Probability with which a window is shifted.
    max_shift : float, default=0.1
        Largest shift in either direction, as a fraction of the window between 0 and 1.
        Shifts are integers, in samples, and drawn uniformly.
    random_state : int, numpy.random.RandomState or None, default=None
        Seed or generator of the shifts.

    Raises
    ------
    TypeError, ValueError
        If `probability` or `max_shift` is not a number between 0 and 1.

    Examples
    --------
    >>> import torch
    >>> from braindecode_sam import TimeShift
    >>> X = torch.randn(8, 3, 100, dtype=torch.float64)
    >>> shifted = TimeShift(1.0, max_shift=0.1, random_state=0)(X)
    >>> shifted.dtype, bool((shifted.sum(-1) - X.sum(-1)).abs().max() < 1e-12)
    (torch.float64, True)
    """

    def __init__(
        self,
        probability: float,
        max_shift: float = 0.1,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        for name, value in {"probability": probability, "max_shift": max_shift}.items():
            check_non_negative(name, value, _FRACTION)
            if value > 1:
                raise ValueError(f"{name} must be {_FRACTION}, got {value!r}")
        super().__init__(probability=probability, random_state=random_state)
        self.max_shift = max_shift

    def extra_repr(self) -> str:
        """Show the parameters in the repr, without the generator."""
        return f"probability={self.probability}, max_shift={self.max_shift}"

    def get_augmentation_params(self, *batch: torch.Tensor) -> dict[str, torch.Tensor]:
        """Draw a shift for each window.

        Parameters
        ----------
        *batch : tuple of torch.Tensor
            Windows of shape (n_windows, n_chans, n_times), and targets.

        Returns
        -------
        params : dict
            ``shifts`` of shape (n_windows,), in samples.
        """
        n_windows, _, n_times = batch[0].shape
        # The product may fall just below an integer: 0.29 * 100 < 29.
        largest = int(np.floor(self.max_shift * n_times + 1e-9))
        shifts = self.rng.randint(-largest, largest + 1, size=n_windows)
        return {"shifts": torch.as_tensor(shifts, dtype=torch.int64)}

    @staticmethod
    def operation(
        X: torch.Tensor, y: _Y, shifts: torch.Tensor
    ) -> tuple[torch.Tensor, _Y]:
        """Shift each window to the right by its number of samples."""
        n_times = X.shape[-1]
        times = torch.arange(n_times, device=X.device)
        sources = (times - shifts.to(X.device)[:, None]) % n_times
        return X.gather(-1, sources[:, None, :].expand(X.shape)), y

    def forward(self, X: torch.Tensor, y: torch.Tensor | None = None) -> Any:
        """Shift a batch or a single window.

        Unlike braindecode's transforms, this one keeps the dtype of `X`.

        Parameters
        ----------
        X : torch.Tensor of shape (n_windows, n_chans, n_times) or (n_chans, n_times)
            EEG.
        y : torch.Tensor or None, default=None
            Targets.

        Returns
        -------
        X : torch.Tensor
            Shifted windows, with the shape, dtype and device of the input.
        y : torch.Tensor
            Targets; returned only if they were passed.
        """
        X = torch.as_tensor(X)
        if X.ndim not in (2, 3):
            raise ValueError(
                "X must have the shape (n_windows, n_chans, n_times) or (n_chans,"
                f" n_times), got {tuple(X.shape)}"
            )
        batch = X if X.ndim == 3 else X[None]
        shifts = self.get_augmentation_params(batch)["shifts"]
        shifts[~self._get_mask(len(batch), shifts.device)] = 0
        shifted = self.operation(batch, y, shifts)[0].reshape(X.shape)
        return shifted if y is None else (shifted, torch.as_tensor(y))


class GaussianNoise(_GaussianNoise):
    """Add Gaussian noise, drawn in the dtype and on the device of the windows.

    The distribution is that of :class:`braindecode.augmentation.GaussianNoise`, which
    draws its noise with NumPy in float64. This class takes less time and draws other
    numbers.

    Parameters
    ----------
    probability : float
        Probability with which a window gets noise.
    std : float or array-like, default=0.1
        Standard deviation of the noise, in the unit of the windows. An array of shape
        (n_chans, 1) has one for each channel.
    random_state : int, numpy.random.RandomState or None, default=None
        Seed or generator of the noise.

    See Also
    --------
    braindecode.augmentation.GaussianNoise : The original transform.
    TimeShift : The other transform of the built-in configurations.

    Examples
    --------
    >>> import torch
    >>> from braindecode_sam.augmentation import GaussianNoise
    >>> noisy = GaussianNoise(1.0, std=0.1, random_state=0)(torch.zeros(8, 3, 1000))
    >>> round(noisy.std().item(), 2)
    0.1
    """

    @staticmethod
    def operation(
        X: torch.Tensor, y: _Y, std: Any, random_state: np.random.RandomState
    ) -> tuple[torch.Tensor, _Y]:
        """Add noise whose seed is drawn from `random_state`."""
        generator = torch.Generator(X.device)
        generator.manual_seed(random_state.randint(2**31 - 1))
        noise = torch.empty_like(X).normal_(generator=generator)
        return X + noise * torch.as_tensor(std, dtype=X.dtype, device=X.device), y

    def extra_repr(self) -> str:
        """Show the parameters in the repr, without the generator."""
        # NumPy would abbreviate and round an array.
        std = self.std.tolist() if hasattr(self.std, "tolist") else self.std
        return f"probability={self.probability}, std={std}"


class AugmentedDataLoader(_AugmentedDataLoader):
    """A loader that draws new augmentations in every epoch and every worker.

    With ``num_workers``, :class:`braindecode.augmentation.AugmentedDataLoader` copies
    the generators of its transforms to each worker. All workers, and all epochs, then
    draw the same numbers. Here each transform draws a seed for every epoch from its own
    generator, in the main process. With one worker, augmentations are those of the main
    process. They depend on the number of workers.

    Parameters
    ----------
    dataset : torch.utils.data.Dataset
        Windows and targets.
    transforms : Transform, list of Transform or None, default=None
        Applied to each batch.
    **kwargs
        Further parameters of :class:`braindecode.augmentation.AugmentedDataLoader`.

    Notes
    -----
    With ``persistent_workers=True``, the generators of the workers are seeded once and
    continue in later epochs. Generators that a ``worker_init_fn`` gives to transforms
    are not used.

    Examples
    --------
    >>> import torch
    >>> from torch.utils.data import TensorDataset
    >>> from braindecode_sam.augmentation import AugmentedDataLoader, GaussianNoise
    >>> data = TensorDataset(torch.zeros(8, 3, 100), torch.zeros(8))
    >>> loader = AugmentedDataLoader(data, GaussianNoise(1.0), batch_size=4)
    >>> [len(X) for X, y in loader]
    [4, 4]
    """

    def __iter__(self) -> Any:
        """Iterate over the augmented batches."""
        self.collate_fn = _SeededCollate(self.collated_tr)
        return super().__iter__()


class _SeededCollate:
    """Augments batches with generators of one epoch, and of a worker if it is in one.

    It is made in the main process. Each worker gets a copy before the first batch.
    """

    def __init__(self, collate: Any) -> None:
        self.collate = collate
        self.transforms = list(_with_generators(collate.transform))
        self.seeds = [transform.rng.randint(2**31) for transform in self.transforms]
        self.generators: list[np.random.RandomState] = []

    def __call__(self, samples: Any) -> Any:
        if not self.generators:
            worker = get_worker_info()
            worker_id = 0 if worker is None else worker.id
            self.generators = [
                np.random.RandomState([s, worker_id]) for s in self.seeds
            ]
        own = [transform.rng for transform in self.transforms]
        # Only for this batch: another loader may share the transforms.
        self._set(self.generators)
        try:
            return self.collate(samples)
        finally:
            self._set(own)

    def _set(self, generators: list[np.random.RandomState]) -> None:
        for transform, generator in zip(self.transforms, generators, strict=True):
            transform.rng = generator


def _with_generators(transform: Any) -> Iterator[Any]:
    """Yield a transform, or those in a Compose."""
    for part in getattr(transform, "transforms", ()):
        yield from _with_generators(part)
    if hasattr(transform, "rng"):
        yield transform
