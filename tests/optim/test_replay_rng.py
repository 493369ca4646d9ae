"""Replay of random numbers on all kinds of devices."""

from types import SimpleNamespace

import pytest
import torch

from braindecode_sam.optim._second_pass import CPU, replay_rng, rng_states


def test_replays_and_continues_as_after_one_pass():
    def draw():
        return torch.rand(3), torch.randn(3), torch.randperm(9)

    before = rng_states([CPU])
    first, after = draw(), torch.get_rng_state()
    with replay_rng(before):
        second = draw()
        torch.rand(100)
    assert all(map(torch.equal, first, second))
    assert torch.equal(torch.get_rng_state(), after)


def test_continues_when_the_pass_raises():
    before, after = rng_states([]), None
    torch.rand(3)
    after = torch.get_rng_state()
    with pytest.raises(KeyboardInterrupt), replay_rng(before):
        raise KeyboardInterrupt
    assert torch.equal(torch.get_rng_state(), after)


def test_if_one_device_fails_all_states_are_restored(monkeypatch):
    fake = FakeGenerators()
    monkeypatch.setattr(torch, "get_device_module", lambda device: fake)
    before = rng_states([CPU, torch.device("cuda:0")])
    torch.rand(3)
    monkeypatch.setattr(fake, "set_rng_state", Failing(fake.set_rng_state))
    after = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="device lost"), replay_rng(before):
        pytest.fail("the pass must not begin")
    assert torch.equal(torch.get_rng_state(), after)


class Failing:
    """Fails at the first call."""

    def __init__(self, function):
        self.function = function
        self.n_calls = 0

    def __call__(self, *args):
        self.n_calls += 1
        if self.n_calls == 1:
            raise RuntimeError("device lost")
        return self.function(*args)


class FakeGenerators:
    """Replaces an accelerator's module, with a counter for each device."""

    def __init__(self):
        self.states = {}

    def get_rng_state(self, device="mps"):
        return torch.tensor(self.states.get(device, 0))

    def set_rng_state(self, state, device="mps"):
        self.states[device] = int(state)


@pytest.mark.parametrize("name", ["cuda:0", "cuda:1", "xpu:0", "mps"])
def test_accelerators(monkeypatch, name):
    fake, device = FakeGenerators(), torch.device(name)
    key = "mps" if name == "mps" else device
    monkeypatch.setattr(torch, "get_device_module", lambda device: fake)
    monkeypatch.setattr(
        torch,
        "mps",
        SimpleNamespace(
            get_rng_state=fake.get_rng_state, set_rng_state=fake.set_rng_state
        ),
    )
    before = rng_states([device])
    fake.states[key] = 5  # the first pass draws five numbers
    with replay_rng(before):
        assert fake.states[key] == 0
        fake.states[key] = 5
    assert fake.states == {key: 5}
