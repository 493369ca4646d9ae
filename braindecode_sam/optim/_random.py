"""Let a second pass draw the random numbers of the first one."""

import torch

CPU = torch.device("cpu")


def random_states(devices):
    """Read the state of torch's random number generators.

    Parameters
    ----------
    devices : iterable of torch.device
        Devices in use. The CPU's generator is always read too.

    Returns
    -------
    states : dict of torch.device to torch.Tensor
        A state for each generator. Reading one does not wait for the device.
    """
    return {device: _get(device) for device in {CPU, *devices}}


class Replayed:
    """Rewind the generators to `states`, and put them back at the end.

    Parameters
    ----------
    states : dict of torch.device to torch.Tensor
        What :func:`random_states` gave before the first pass.

    Examples
    --------
    >>> import torch
    >>> before = random_states([])
    >>> first, after = torch.rand(2), random_states([])
    >>> with Replayed(before):
    ...     second = torch.rand(2)
    >>> torch.equal(first, second)
    True
    >>> torch.equal(after[CPU], random_states([])[CPU])
    True
    """

    def __init__(self, states):
        self._states = states

    def __enter__(self):
        self._ahead = random_states(self._states)
        _set_all(self._states)

    def __exit__(self, *exc_info):
        _set_all(self._ahead)


def _set_all(states):
    for device, state in states.items():
        _set(device, state)


def _get(device):
    if device.type == "cpu":
        return torch.get_rng_state()
    if device.type == "mps":  # one device, and no device argument
        return torch.mps.get_rng_state()
    return torch.get_device_module(device).get_rng_state(device)


def _set(device, state):
    if device.type == "cpu":
        torch.set_rng_state(state)
    elif device.type == "mps":
        torch.mps.set_rng_state(state)
    else:
        torch.get_device_module(device).set_rng_state(state, device)
