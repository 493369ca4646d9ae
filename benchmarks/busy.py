"""Time training steps on cores that other programs use, with and without share_cores.

Processes train at the same time as others, or as a program that only keeps a core
busy. The table shows the mean wall time per step, as the median over repeats. Repeats
with and without share_cores alternate.

To measure under a quota, make a control group that has one, and pass its folder. The
processes that train join it.
"""

import argparse
import itertools
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import braindecode.models
import torch
from _report import make_step, print_with_machine

import braindecode_sam

SHAPE = 32, 22, 500, 2  # batch, channels, samples, outputs
MODELS = {  # and optimizers
    "EEGNeX": "AdamW",
    "FastEEGNeX": "SAM",
    "EEGNet": "AdamW",
    "FastEEGNet": "SAM",
}
SITUATIONS = {  # trainings, programs that only keep a core busy
    "nothing": (1, 0),
    "a busy program": (1, 1),
    "another training": (2, 0),
    "three trainings": (4, 0),
}
LOOP = "while True: pass"


def build(name):
    """Build a function that makes a training step on new windows."""
    batch, n_chans, n_times, n_outputs = SHAPE
    package = braindecode_sam if name.startswith("Fast") else braindecode.models
    model = getattr(package, name)(
        n_chans=n_chans, n_times=n_times, n_outputs=n_outputs
    )
    optimizers = {"AdamW": torch.optim.AdamW, "SAM": braindecode_sam.SAM}
    optimizer = optimizers[MODELS[name]](model.parameters(), lr=1e-3)
    y = torch.randint(n_outputs, (batch,))

    def draw():
        return torch.randn(batch, n_chans, n_times), y

    return make_step(model, optimizer, draw, torch.nn.functional.cross_entropy)


def run_steps(model, threads, seconds):
    """Make steps for some seconds; print the mean milliseconds per step."""
    torch.set_num_threads(threads)
    state = braindecode_sam.share_cores()  # also for models that are not sped up
    step = build(model)
    step()
    print("ready", flush=True)
    sys.stdin.readline()  # all processes begin together
    start, count = time.perf_counter(), 0
    while count < 2 or time.perf_counter() - start < seconds:
        step()
        count += 1
    print(state)
    print(1e3 * (time.perf_counter() - start) / count)


def time_steps(model, situation, is_with, args):
    """Return the mean milliseconds per step, over all processes."""
    n_trainings, n_busy = SITUATIONS[situation]
    command = [sys.executable, "-W", "ignore", __file__, "--run", model]
    command += ["--threads", str(args.threads), "--seconds", str(args.seconds)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    environment = os.environ | {"BRAINDECODE_SAM_SHARE_CORES": str(int(is_with))}
    busy = [subprocess.Popen([sys.executable, "-c", LOOP]) for _ in range(n_busy)]
    try:
        running = [
            subprocess.Popen(command, env=environment, **pipes)
            for _ in range(n_trainings)
        ]
        for process in running:
            if args.cgroup:
                (args.cgroup / "cgroup.procs").write_text(str(process.pid))
            assert process.stdout.readline().strip() == "ready"
        for process in running:
            process.stdin.write("\n")
            process.stdin.flush()
        printed = [process.communicate()[0].splitlines() for process in running]
    finally:
        for process in busy:
            process.kill()
    state = printed[0][0]
    if is_with and state != "in effect":
        raise RuntimeError(f"nothing to compare: share_cores has {state}")
    return statistics.mean(float(lines[1]) for lines in printed)


def main():
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument(
        "--beside", nargs="+", default=list(SITUATIONS), choices=SITUATIONS
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cgroup", type=Path, help="folder of a control group")
    parser.add_argument("--run", choices=MODELS, help=argparse.SUPPRESS)
    parser.add_argument("--csv", help="also write the table to this file")
    args = parser.parse_args()
    if args.run:
        run_steps(args.run, args.threads, args.seconds)
        return
    rows = []
    for model, situation in itertools.product(args.models, args.beside):
        found = {False: [], True: []}
        for _ in range(args.repeats):
            for is_with, times in found.items():
                times.append(time_steps(model, situation, is_with, args))
        without, with_ = (statistics.median(times) for times in found.values())
        rows.append(
            {
                "training": f"{model}, {MODELS[model]}",
                "beside": situation,
                "ms without": without,
                "ms with share_cores": with_,
                "without / with": without / with_,
            }
        )
        print(rows[-1], flush=True)
    print_with_machine(rows, args.csv, threads=args.threads)


if __name__ == "__main__":
    main()
