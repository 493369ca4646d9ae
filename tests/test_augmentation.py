"""TimeShift compared with np.roll, noise with its distribution, both in a loader."""

import numpy as np
import pytest
import torch
from braindecode.augmentation import Compose
from braindecode.augmentation import GaussianNoise as StockNoise
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch.utils.data import TensorDataset, get_worker_info

from braindecode_sam import TimeShift
from braindecode_sam.augmentation import AugmentedDataLoader, GaussianNoise


@given(
    n_windows=st.integers(1, 5),
    n_chans=st.integers(1, 3),
    n_times=st.integers(1, 30),
    dtype=st.sampled_from([torch.float16, torch.float32, torch.float64, torch.int32]),
    data=st.data(),
)
def test_equals_np_roll(n_windows, n_chans, n_times, dtype, data):
    X = torch.randn(n_windows, n_chans, n_times).mul(100).to(dtype)
    shift = st.integers(-2 * n_times, 2 * n_times)
    shifts = data.draw(st.lists(shift, min_size=n_windows, max_size=n_windows))
    shifted, _ = TimeShift.operation(X, None, torch.tensor(shifts))
    rolled = [np.roll(x.numpy(), s, axis=1) for x, s in zip(X, shifts, strict=True)]
    assert shifted.dtype == dtype
    np.testing.assert_array_equal(shifted.numpy(), np.stack(rolled))


@pytest.mark.parametrize(("max_shift", "n_times"), [(0.29, 100), (0.0, 9)])
def test_draws_all_shifts_within_the_limit(max_shift, n_times):
    largest = round(max_shift * n_times)
    X = torch.zeros(40_000, 1, n_times)
    X[..., 0] = 1
    positions = TimeShift(1.0, max_shift=max_shift, random_state=0)(X).argmax(-1)
    shifts = (positions.flatten() + largest) % n_times - largest
    values, counts = shifts.unique(return_counts=True)
    assert values.tolist() == list(range(-largest, largest + 1))
    assert counts.max() / counts.min() < 1.4  # uniform, one draw a window


def test_probability_and_random_state():
    X = torch.randn(2000, 1, 100)
    first = TimeShift(0.5, max_shift=0.4, random_state=3)(X)
    again = TimeShift(0.5, max_shift=0.4, random_state=3)(X)
    assert torch.equal(first, again)
    moved = (first != X).flatten(1).any(1).float().mean()
    assert 0.45 < moved < 0.55
    assert torch.equal(TimeShift(0.0, random_state=3)(X), X)


def test_input_is_left_alone_and_strides_do_not_matter():
    X = torch.randn(4, 60, 3).transpose(1, 2)
    before = X.clone()
    shifted = TimeShift(1.0, random_state=0)(X)
    assert torch.equal(X, before)
    assert torch.equal(shifted, TimeShift(1.0, random_state=0)(X.contiguous()))


def test_a_single_window_and_targets():
    X, y = torch.randn(3, 50), torch.tensor(2.0)
    shifted, target = TimeShift(1.0, random_state=0)(X, y)
    assert shifted.shape == X.shape
    assert torch.equal(shifted.sort(-1).values, X.sort(-1).values)
    assert target is y


def test_in_loader_and_compose():
    X, y = torch.randn(10, 3, 50), torch.arange(10.0)[:, None]
    shift = TimeShift(1.0, random_state=0)
    loader = AugmentedDataLoader(TensorDataset(X, y), transforms=shift, batch_size=5)
    batches = list(loader)
    assert torch.cat([b[0] for b in batches]).sort(-1).values.equal(X.sort(-1).values)
    assert torch.cat([b[1] for b in batches]).equal(y)
    both = Compose([TimeShift(1.0, random_state=0), GaussianNoise(1.0, std=1e-3)])
    noisy, _ = both(X, y)
    assert noisy.shape == X.shape


def test_refuses_max_shift():
    for max_shift in (-0.1, 1.5, float("nan")):
        message = f"max_shift must be a fraction between 0 and 1, got {max_shift}"
        with pytest.raises(ValueError, match=message):
            TimeShift(0.5, max_shift=max_shift)


def test_noise_has_the_distribution_of_braindecodes():
    X = torch.ones(100, 4, 500)
    ours, theirs = (
        (cls(1.0, std=0.3, random_state=0)(X) - X).flatten().numpy()
        for cls in (GaussianNoise, StockNoise)
    )
    assert ours.dtype == np.float32
    assert stats.kstest(ours / 0.3, "norm").pvalue > 0.01
    assert stats.ks_2samp(ours, theirs).pvalue > 0.01
    assert abs(np.corrcoef(ours[:-1], ours[1:])[0, 1]) < 0.01


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_noise_repeats_and_goes_on(dtype):
    X = torch.zeros(1000, 2, 50, dtype=dtype)
    transforms = [GaussianNoise(0.5, random_state=3) for _ in range(2)]
    (first, second), (again, _) = ([t(X), t(X)] for t in transforms)
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    assert 0.45 < first.flatten(1).any(1).float().mean() < 0.55
    assert not X.any()
    assert not torch.equal(first, GaussianNoise(0.5, random_state=4)(X))


def raise_windows(worker_id):
    """Change the worker's own copy of the windows."""
    get_worker_info().dataset.tensors[0].add_(100)


@pytest.mark.parametrize(
    "options",
    [
        {"worker_init_fn": raise_windows},
        {"persistent_workers": True},
        pytest.param({"multiprocessing_context": "spawn"}, marks=pytest.mark.full),
    ],
    ids=["fork", "persistent", "spawn"],
)
def test_workers_and_epochs_draw_different_numbers_that_a_seed_repeats(options):
    transforms = [Compose([GaussianNoise(1.0)]), TimeShift(1.0)]
    data = TensorDataset(torch.zeros(16, 3, 50), torch.zeros(16))

    def drawn():
        loader = AugmentedDataLoader(
            data, transforms, batch_size=4, num_workers=2, **options
        )
        np.random.seed(0)
        return [X for _ in range(2) for X, y in loader]

    first, second = drawn(), drawn()
    assert len({tuple(X.flatten().tolist()) for X in first}) == 8
    for X, again in zip(first, second, strict=True):
        assert torch.equal(X, again)
        assert (X.mean() > 50) == ("worker_init_fn" in options)


def test_one_worker_draws_the_numbers_of_the_main_process():
    data = TensorDataset(torch.zeros(16, 3, 50), torch.zeros(16))
    found = []
    for n_workers in (0, 1):
        transforms = [
            GaussianNoise(1.0, random_state=0),
            TimeShift(1.0, random_state=1),
        ]
        loader = AugmentedDataLoader(
            data, transforms, batch_size=4, num_workers=n_workers
        )
        found.append(torch.stack([X for _ in range(2) for X, y in loader]))
    assert torch.equal(*found)
    assert len(set(found[0].flatten(1).sum(1).tolist())) == 8


def test_loaders_that_share_a_transform_do_not_disturb_each_other():
    data = TensorDataset(torch.zeros(8, 3, 50), torch.zeros(8))

    def loaders():
        noise = GaussianNoise(1.0, random_state=0)
        return noise, [AugmentedDataLoader(data, noise, batch_size=4) for _ in "ab"]

    _, (first, second) = loaders()
    one_by_one = [[X for X, y in loader] for loader in (first, second)]
    noise, (first, second) = loaders()
    own = noise.rng
    together = [iter(first), iter(second)]
    for i in range(2):
        for batches, expected in zip(together, one_by_one, strict=True):
            assert torch.equal(next(batches)[0], expected[i])
            assert noise.rng is own
