"""Memory of an optimizer on a large net: what it keeps, and what a step needs.

In copies of the trainable weights, AdamW as the base: what the optimizer keeps between
its steps beside weights and gradients (AdamW itself: two), and the peak within a step.
The passes set gradients that are there already, so that nothing of theirs is counted.
Each in a process of its own; kept tensors are counted as they stay reachable, the peak
is the largest resident set (Linux) or what PyTorch counts (CUDA).
"""

import argparse
import gc
import resource
import subprocess
import sys

import torch
from _report import print_table

import braindecode_sam.optim

N_TENSORS = 50
OURS = {
    name: getattr(braindecode_sam.optim, name) for name in braindecode_sam.optim.__all__
}
THEIRS = ("SAM", "WSAM", "FriendlySAM", "LookSAM")  # which need no more than a net


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
    """Print kept and peak bytes, of one optimizer in this process."""
    shape = (n_weights // N_TENSORS,)
    params = [
        torch.nn.Parameter(torch.full(shape, 0.01, device=device))
        for _ in range(N_TENSORS)
    ]
    frozen = torch.nn.Parameter(torch.zeros(n_frozen, device=device), False)
    grads = [torch.full_like(p, 0.001) for p in params]
    scale = iter(range(1, 10**6))

    def closure():
        factor = 1 + 0.001 * next(scale)
        for p, grad in zip(params, grads, strict=True):
            p.grad = grad.mul_(factor)
        return torch.zeros(())

    optimizer = make_optimizer(name, [*params, frozen] if n_frozen else params)
    for _ in range(6):  # LookSAM's steps differ
        if name.startswith("pytorch_optimizer ") and "WSAM" not in name:
            closure()  # its documentation leaves the first pass to the loop
        optimizer.step(closure)
    gc.collect()
    known = [*params, frozen, *grads]
    print(kept_bytes(known), peak_bytes(device), sum(t.nbytes for t in known))


def kept_bytes(known):
    """Bytes of all reachable tensors but those known, each storage once."""
    storages = {}
    for thing in gc.get_objects():
        if isinstance(thing, torch.Tensor) and thing.device.type != "meta":
            storage = thing.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    for tensor in known:
        storages.pop(tensor.untyped_storage().data_ptr(), None)
    return sum(storages.values())


def peak_bytes(device):
    """Largest amount of memory that was in use."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def run(name, args, n_frozen):
    """Measure in a process of its own."""
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
    parser.add_argument("--frozen", type=int, default=25_000_000)
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
                "beside AdamW": kept - base[0],
                "for frozen weights": (with_frozen / weights_bytes - kept) * share,
                "peak beside AdamW": peak - base[1],
            }
        )
    print_table(rows, args.csv)


if __name__ == "__main__":
    main()
