"""Cache of tensors that depend on sizes."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from braindecode_sam.models._cache import N_KEPT, cached_by_size

CPU = torch.device("cpu")


@pytest.fixture
def ramp():
    @cached_by_size
    def ramp(n, device):
        return torch.arange(float(n), device=device)

    return ramp


def test_keeps_the_sizes_used_last(ramp):
    first = ramp(3, CPU)
    assert ramp(3, CPU) is first
    for n in range(4, 4 + N_KEPT):
        ramp(n, CPU)
    assert ramp(3, CPU) is not first


def test_what_inference_mode_asked_for_can_be_trained_with(ramp):
    with torch.inference_mode():
        ramp(3, CPU)
    weight = torch.ones(3, requires_grad=True)
    (weight * ramp(3, CPU)).sum().backward()
    assert weight.grad.tolist() == [0, 1, 2]


def test_fake_tensors_and_real_ones_do_not_meet(ramp):
    with FakeTensorMode() as fake:
        assert isinstance(fake.from_tensor(torch.ones(3)) * ramp(3, CPU), torch.Tensor)
    assert type(ramp(3, CPU)) is torch.Tensor
    with FakeTensorMode() as fake:
        fake.from_tensor(torch.ones(3)) * ramp(3, CPU)


def test_nothing_is_kept_while_a_cuda_graph_is_captured(ramp, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    device = torch.device("cuda")
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert ramp(3, device) is not ramp(3, device)
