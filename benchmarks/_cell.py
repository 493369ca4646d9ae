"""Extra memory of one way to train, at one shape, in a separate process.

Prints the MiB by which some training steps raise the process's peak above what it held
once model and data were built: resident memory as Linux counts it, or, on a GPU, what
torch has allocated there. The peak includes what libraries load on first use, and,
for a compiled model, the compiler.
"""

import argparse
import gc

import torch
from training_step import VARIANTS, make_step


def start_counting(device):
    """Forget the peak so far; give what is held now, in bytes."""
    gc.collect()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # man 5 proc: resets the peak
    return _status("VmRSS")


def peak(device):
    """Give the peak since, in bytes."""
    return torch.cuda.max_memory_allocated() if device == "cuda" else _status("VmHWM")


def _status(name):
    with open("/proc/self/status") as file:
        line = next(line for line in file if line.startswith(name))
    return 1024 * int(line.split()[1])


def main():
    """Print a number."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("variant", choices=VARIANTS)
    parser.add_argument("shape", nargs=4, type=int, help="as in SHAPES of _report.py")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--steps", type=int, default=4)
    args = parser.parse_args()
    device = torch.device(args.device).type
    step = make_step(args.variant, args.shape, args.device)
    held = start_counting(device)
    for _ in range(args.steps):
        step()
    print((peak(device) - held) / 2**20)


if __name__ == "__main__":
    main()
