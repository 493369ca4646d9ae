"""Measure the memory of optimizers on a large model.

The unit is one copy of the trainable weights. The table shows what an optimizer keeps
between its steps, besides weights and gradients, and the peak within a step. AdamW
itself keeps two copies, and it is the base optimizer of the others. The closures only
set gradients, so passes need no memory. Each optimizer runs in a separate process. Kept
memory is that of all reachable tensors. The peak is the largest resident set on Linux,
or what PyTorch counts with CUDA.
"""

import argparse
import gc
import resource
import subprocess
import sys

import torch
from _report import print_with_machine

import braindecode_sam.optim

N_TENSORS = 50
OURS = {
    name: getattr(braindecode_sam.optim, name) for name in braindecode_sam.optim.__all__
}
THEIRS = ("SAM", "WSAM", "FriendlySAM", "LookSAM")  # those that need only a model


def make_optimizer(name, params):
    """Build an optimizer around AdamW by its name in the table."""
    if name == "AdamW":
        return torch.optim.AdamW(params)
    if name in OURS:
        return OURS[name](params)
    import pytorch_optimizer

    cls = getattr(pytorch_optimizer, name.removeprefix("pytorch_optimizer "))
    options = {"model": torch.nn.ParameterList(params)} if "WSAM" in name else {}
    return cls(params=params, base_optimizer=torch.optim.AdamW, **options)


def measure(name, n_weights, n_frozen, device):
    """Print the kept and the peak bytes of one optimizer in this process."""
    shape = (n_weights // N_TENSORS,)
    params = [
        torch.nn.Parameter(torch.full(shape, 0.01, device=device))
        for _ in range(N_TENSORS)
    ]
    frozen = torch.nn.Parameter(torch.zeros(n_frozen, device=device), False)
    grads = [torch.full_like(p, 0.001) for p in params]
    scale = iter(range(1, 10**6))

    def closure():
        optimizer.zero_grad()
        factor = 1 + 0.001 * next(scale)
        for p, grad in zip(params, grads, strict=True):
            p.grad = grad.mul_(factor)
        return torch.zeros(())

    optimizer = make_optimizer(name, [*params, frozen] if n_frozen else params)
    for _ in range(6):  # the steps of LookSAM differ from each other
        if name.startswith("pytorch_optimizer ") and "WSAM" not in name:
            closure()  # the loop makes the first pass, as in its documentation
        optimizer.step(closure)
    gc.collect()
    known = [*params, frozen, *grads, *(p.grad for p in params)]
    print(kept_bytes(known), peak_bytes(device), sum(t.nbytes for t in known))


def kept_bytes(known):
    """Return the bytes of all reachable tensors except those known."""
    storages = {}
    for thing in gc.get_objects():
        if isinstance(thing, torch.Tensor) and thing.device.type != "meta":
            storage = thing.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    for tensor in known:
        storages.pop(tensor.untyped_storage().data_ptr(), None)
    return sum(storages.values())


def peak_bytes(device):
    """Return the largest number of bytes that were in use."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def run(name, args, n_frozen):
    """Measure in a separate process."""
    command = [sys.executable, __file__, "--device", args.device]
    command += ["--weights", str(args.weights), "--frozen", str(n_frozen)]
    printed = subprocess.check_output([*command, "--only", name], text=True)
    return map(int, printed.splitlines()[-1].split())


def main():
    """Print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", type=int, default=50_000_000)
    parser.add_argument(
        "--frozen", type=int, default=25_000_000, help="weights without gradients"
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--csv", help="also write the table to this file")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.only:
        measure(args.only, args.weights, args.frozen, args.device)
        return
    names = ["AdamW", *OURS, *(f"pytorch_optimizer {name}" for name in THEIRS)]
    weights_bytes, share = 4 * args.weights, args.weights / args.frozen
    rows = []
    for name in names:
        kept, peak, known = run(name, args, 0)
        with_frozen = next(run(name, args, args.frozen))
        kept, peak = kept / weights_bytes, (peak - known) / weights_bytes
        if not rows:
            base = kept, peak
        rows.append(
            {
                "optimizer": name,
                "kept": kept,
                "minus AdamW's": kept - base[0],
                "for frozen weights": (with_frozen / weights_bytes - kept) * share,
                "peak minus AdamW's": peak - base[1],
            }
        )
    print_with_machine(rows, args.csv)


if __name__ == "__main__":
    main()
