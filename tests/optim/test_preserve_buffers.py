"""Preserved buffers: which ones, for how long, and on which thread."""

import gc
import threading
import weakref

import pytest
import torch
from torch.nn.modules import module as torch_module
from torch.nn.utils import parametrizations, spectral_norm

from braindecode_sam import SAM
from braindecode_sam.optim._second_pass import (
    BufferCache,
    DeferSigint,
    preserve_buffers,
)
from tests.optim.helpers import Problem, assert_same, small_net


def buffers(module):
    return {name: value.clone() for name, value in module.named_buffers()}


MODULES = {
    "batch": lambda: torch.nn.BatchNorm1d(4),
    "batch, cumulative": lambda: torch.nn.BatchNorm1d(4, momentum=None),
    "batch, no affine": lambda: torch.nn.BatchNorm1d(4, affine=False),
    "batch, untracked": lambda: torch.nn.BatchNorm1d(4, track_running_stats=False),
    "instance": lambda: torch.nn.InstanceNorm1d(4, track_running_stats=True),
    "scripted": lambda: torch.jit.script(torch.nn.BatchNorm1d(4)),
    "spectral": lambda: parametrizations.spectral_norm(torch.nn.Linear(6, 4)),
    "spectral, old": lambda: spectral_norm(torch.nn.Linear(6, 4)),
}


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
@pytest.mark.filterwarnings("ignore:.*torch.nn.utils.spectral_norm.*deprecated")
def test_buffers_stay(name):
    module = torch.nn.Sequential(torch.nn.Identity(), MODULES[name]())
    x = torch.randn(8, 4, 6)
    module(x)
    before = buffers(module)
    with preserve_buffers(BufferCache(), DeferSigint) as preserved:
        module(x + 1)
        after_first = buffers(module)
        preserved.rewind()
        assert_same(buffers(module), before)
        module(x + 1.5)
        module[1](x + 2)  # also called separately
    assert_same(buffers(module), after_first)
    module(x + 1)
    assert not before or not all(
        torch.equal(before[n], b) for n, b in buffers(module).items()
    )


def test_buffers_that_a_forward_replaces():
    class Counting(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("running_mean", torch.zeros(1))

        def forward(self, x):
            self.running_mean = self.running_mean + x.mean()
            return x

    module = Counting()
    with preserve_buffers(BufferCache(), DeferSigint) as preserved:
        module(torch.ones(3))
        preserved.rewind()
        assert module.running_mean.item() == 0
        module(torch.ones(3) * 5)
    assert module.running_mean.item() == 1


def test_released_when_the_pass_raises():
    norm = torch.nn.BatchNorm1d(2)

    def interrupted_pass():
        with preserve_buffers(BufferCache(), DeferSigint):
            norm(torch.randn(4, 2))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted_pass()
    assert norm.num_batches_tracked == 0
    assert not torch_module._global_forward_pre_hooks


def test_other_threads_continue_counting():
    norm, other = torch.nn.BatchNorm1d(2), torch.nn.BatchNorm1d(2)
    with preserve_buffers(BufferCache(), DeferSigint) as preserved:
        norm(torch.randn(4, 2))
        preserved.rewind()
        norm(torch.randn(4, 2))
        for _ in range(2):
            thread = threading.Thread(target=other, args=(torch.randn(4, 2),))
            thread.start()
            thread.join()
    assert (norm.num_batches_tracked, other.num_batches_tracked) == (1, 2)


def test_an_optimizer_deleted_between_its_two_steps_leaves_no_hook():
    problem = Problem()
    optimizer = SAM(problem.net.parameters())
    problem.closure(optimizer)()
    optimizer.first_step()
    assert torch_module._global_forward_pre_hooks
    alive = weakref.ref(optimizer)
    del optimizer
    gc.collect()
    assert alive() is None
    problem.loss()
    assert not torch_module._global_forward_pre_hooks


def test_two_step_form_preserves_the_statistics():
    problem = Problem(small_net(dropout=0))
    optimizer = SAM(problem.net.parameters())
    problem.closure(optimizer)()
    after_first = buffers(problem.net)
    optimizer.first_step(zero_grad=True)
    problem.loss().backward()
    optimizer.second_step()
    assert_same(buffers(problem.net), after_first)


def test_several_modules_in_one_closure():
    encoder, head = small_net()[:3], torch.nn.Sequential(torch.nn.BatchNorm1d(8))
    params = [*encoder.parameters(), *head.parameters()]
    optimizer = SAM(params, lr=0.0)
    x = torch.randn(16, 5)

    def closure():
        optimizer.zero_grad()
        loss = head(encoder(x)).pow(3).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert encoder[1].num_batches_tracked == head[0].num_batches_tracked == 1
