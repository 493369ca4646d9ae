"""Time SAM and its variants on FastEEGNeX, compared with AdamW and pytorch_optimizer.

The table shows the passes per step, the seconds per epoch of ``--steps`` batches of
Challenge 1's shape, and the ratio to plain AdamW. The base optimizer is AdamW
throughout. Times are medians of interleaved epochs in one process. For
pytorch_optimizer, a loop makes the first pass and the optimizer the second one, as its
documentation shows. Its WSAM makes both.
"""

import argparse

import pytorch_optimizer
import torch
from _report import (
    SHAPES,
    add_common_arguments,
    interleaved_medians,
    make_model_and_data,
    print_with_machine,
)

import braindecode_sam.optim

OURS = [getattr(braindecode_sam.optim, name) for name in braindecode_sam.optim.__all__]
THEIRS = {"SAM": {}, "WSAM": {}, "FriendlySAM": {}, "LookSAM": {"k": 5}}
MAKES_BOTH_PASSES = ("WSAM",)


class Training:
    """A model, its data, and a count of the passes over them."""

    def __init__(self, model, shape, device):
        self.module, self._batches = make_model_and_data(model, shape, device)
        self.passes = 0

    def next_batch(self):
        """Move to the next batch."""
        self._batch = next(self._batches)

    def run(self, optimizer):
        """Make one pass over the current batch."""
        self.passes += 1
        x, y = self._batch
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(self.module(x), y)
        loss.backward()
        return loss


def step_with_closure(optimizer, training):
    """Step with an optimizer that makes all passes itself."""
    optimizer.step(lambda: training.run(optimizer))


def step_by_hand(optimizer, training):
    """Make the first pass, then step with an optimizer that makes the second one."""
    training.run(optimizer)
    optimizer.step(lambda: training.run(optimizer))


def make_optimizers(args):
    """Build a training and a step for each optimizer."""
    variants = {"AdamW": (torch.optim.AdamW, {}, step_with_closure)}
    variants |= {cls.__name__: (cls, {}, step_with_closure) for cls in OURS}
    for name, options in THEIRS.items():
        cls = getattr(pytorch_optimizer, name)
        options = {"base_optimizer": torch.optim.AdamW} | options
        step = step_with_closure if name in MAKES_BOTH_PASSES else step_by_hand
        variants[f"pytorch_optimizer {name}"] = (cls, options, step)
    trainings, optimizers = {}, {}
    for name, (cls, options, step) in variants.items():
        trainings[name] = training = Training(
            args.model, SHAPES[args.shape], args.device
        )
        if name.endswith(" WSAM"):
            options = options | {"model": training.module}
        optimizer = cls(params=training.module.parameters(), lr=1e-3, **options)
        optimizers[name] = (optimizer, step)
    return trainings, optimizers


def make_epoch(training, optimizer, step, n_steps):
    """Build a function that trains for an epoch."""

    def epoch():
        for _ in range(n_steps):
            training.next_batch()
            step(optimizer, training)

    return epoch


def main():
    """Print a table."""
    parser = add_common_arguments(argparse.ArgumentParser(description=__doc__))
    parser.add_argument("--shape", default="challenge_1", choices=SHAPES)
    parser.add_argument("--model", default="fast", choices=["fast", "stock"])
    parser.add_argument("--steps", type=int, default=20)
    args = parser.parse_args()
    trainings, optimizers = make_optimizers(args)
    epochs = {
        name: make_epoch(trainings[name], *optimizers[name], args.steps)
        for name in trainings
    }
    times = interleaved_medians(epochs, args.repeats, args.device)
    n_steps = (args.repeats + 1) * args.steps
    rows = [
        {
            "optimizer": name,
            "passes per step": trainings[name].passes / n_steps,
            "seconds per epoch": ms / 1e3,
            "relative to AdamW": ms / times["AdamW"],
        }
        for name, ms in times.items()
    ]
    print_with_machine(rows, args.csv)


if __name__ == "__main__":
    main()
