"""Time training steps of EEGNeX and FastEEGNeX while several trainings share the cores.

Several processes start at once. Each of them makes steps of Challenge 1 for some
seconds with the given number of threads. The table shows the mean wall time per step,
over all processes, and the speed-up over EEGNeX with AdamW.
"""

import argparse
import subprocess
import sys
import time

import torch
from _report import SHAPES, print_table
from training_step import BASELINE, VARIANTS, make_step

COMPARED = (BASELINE, "FastEEGNeX, AdamW", "FastEEGNeX, SAM")


def run_steps(variant, threads, seconds):
    """Make steps for some seconds; print the mean milliseconds per step."""
    torch.set_num_threads(threads)
    step = make_step(variant, SHAPES["challenge_1"], "cpu")
    step()
    print("ready", flush=True)
    sys.stdin.readline()  # all processes begin together
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        step()
        count += 1
    print(1e3 * (time.perf_counter() - start) / count)


def time_together(variant, threads, processes, seconds):
    """Return the mean milliseconds per step of several processes at once."""
    command = [sys.executable, __file__, "--run", variant]
    command += ["--threads", str(threads), "--seconds", str(seconds)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    running = [subprocess.Popen(command, **pipes) for _ in range(processes)]
    for process in running:
        while process.stdout.readline().strip() != "ready":
            pass
    for process in running:
        process.stdin.write("\n")
        process.stdin.flush()
    printed = [process.communicate()[0].split()[-1] for process in running]
    return sum(map(float, printed)) / processes


def main():
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--threads", nargs="+", type=int, default=[2, 1])
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--run", choices=VARIANTS, help=argparse.SUPPRESS)
    parser.add_argument("--csv", help="also write the table to this file")
    args = parser.parse_args()
    if args.run:
        run_steps(args.run, args.threads[0], args.seconds)
        return
    rows = []
    for threads in args.threads:
        milliseconds = {
            variant: time_together(variant, threads, args.processes, args.seconds)
            for variant in COMPARED
        }
        rows += [
            {
                "processes": args.processes,
                "threads each": threads,
                "training": variant,
                "ms per step": ms,
                "speed-up": milliseconds[BASELINE] / ms,
            }
            for variant, ms in milliseconds.items()
        ]
    print_table(rows, args.csv)


if __name__ == "__main__":
    main()
