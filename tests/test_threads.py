"""share_cores: torch's threads sleep between parallel regions, in every process."""

import json
import os
import subprocess
import sys

import pytest

N_CPUS = len(os.sched_getaffinity(0)) if sys.platform == "linux" else 1
pytestmark = pytest.mark.skipif(N_CPUS == 1, reason="torch's threads do not wait")

# Prints the result, and how often torch's second thread slept in 200 regions.
SCRIPT = """
import json, os, sys, time
import torch

def sleeps():
    tasks = [f"/proc/self/task/{task}/status" for task in os.listdir("/proc/self/task")]
    lines = [line.split() for task in tasks for line in open(task)]
    return sum(int(line[1]) for line in lines if line[0] == "voluntary_ctxt_switches:")

def measure():
    torch.set_num_threads(2)
    x = torch.arange(1 << 20) / 7
    x.sum()
    before = sleeps()
    for _ in range(200):
        total = x.sum()
        until = time.perf_counter() + 2e-4
        while time.perf_counter() < until:
            pass
    return sleeps() - before, total.item()

from braindecode_sam import share_cores
"""


def run(script, **environment):
    return run_file("-c", SCRIPT + script, **environment)


def run_file(*arguments, **environment):
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("OMP_", "GOMP_", "MKL_", "BRAINDECODE_SAM_"))
    }
    command = [sys.executable, "-W", "ignore", *arguments]
    printed = subprocess.check_output(command, env=clean | environment, text=True)
    return json.loads(printed.splitlines()[-1])


def test_threads_sleep_between_regions_and_sums_stay():
    script = "print(json.dumps([share_cores(), *measure()]))"
    state, n_sleeps_without, total = run(script, BRAINDECODE_SAM_SHARE_CORES="0")
    assert state == "no effect: BRAINDECODE_SAM_SHARE_CORES is 0"
    script = """
torch.set_num_threads(1)
states = [share_cores()]
torch.set_num_threads(2)
n_threads = len(os.listdir("/proc/self/task"))
states += [share_cores(), share_cores()]
n_threads = len(os.listdir("/proc/self/task")) - n_threads
reader, writer = os.pipe()  # a child that forks later would hang, as without this
if os.fork() == 0:
    os.write(writer, json.dumps([share_cores(), measure()[0]]).encode())
    os._exit(0)
os.wait()
print(json.dumps([states, n_threads, measure(), json.loads(os.read(reader, 1000))]))
"""
    states, n_threads, found, (of_child, n_sleeps_of_child) = run(script)
    assert states == ["no effect: torch uses one thread", "in effect", "in effect"]
    n_sleeps, total_with = found
    assert total_with == total
    assert n_threads == N_CPUS + 1
    assert n_sleeps >= 180
    assert n_sleeps > n_sleeps_without
    assert of_child == "in effect"
    assert n_sleeps_of_child >= 180


@pytest.mark.full
@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"OMP_WAIT_POLICY": "active"}, "OMP_WAIT_POLICY is set"),
        ({"GOMP_SPINCOUNT": "10"}, "GOMP_SPINCOUNT is set"),
        ({"OMP_THREAD_LIMIT": "2"}, "OpenMP allows 2 threads, {} are needed"),
    ],
)
def test_what_the_user_has_set_stays(environment, reason):
    needed = N_CPUS + 1
    found = run("print(json.dumps(share_cores()))", **environment)
    assert found == "no effect: " + reason.format(needed)


@pytest.mark.full
@pytest.mark.parametrize("where", ["loky", "multiprocessing", "dask"])
def test_workers_take_it_by_themselves(where, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT + WORKERS)
    assert min(run_file(str(script), where)) >= 180


WORKERS = """
from joblib import Parallel, delayed, parallel_config

def work(seed):
    torch.set_num_threads(2)
    from braindecode_sam import FastEEGNet
    FastEEGNet(n_chans=22, n_times=500, n_outputs=2)
    return measure()[0]

if __name__ == "__main__":
    where = sys.argv[1]
    if where == "dask":
        from distributed import Client, LocalCluster
        client = Client(LocalCluster(2, threads_per_worker=1, dashboard_address=None))
    with parallel_config(backend=where):
        found = Parallel(n_jobs=2)(delayed(work)(seed) for seed in range(2))
    print(json.dumps(found))
"""


@pytest.mark.full
def test_a_limit_of_threads_is_not_exceeded():
    script = """
import threading
start, n_left = threading.Thread.start, 3
def limited(thread):
    global n_left
    n_left -= 1
    if n_left < 0:
        raise RuntimeError("can't start new thread")
    start(thread)
threading.Thread.start = limited
states = [share_cores(), share_cores()]
threading.Thread.start = start
print(json.dumps([*states, share_cores()]))
"""
    limited = "no effect: the number of threads is limited"
    assert run(script) == [limited, limited, "in effect"]


@pytest.mark.full
def test_a_fitted_net_has_it():
    script = """
import numpy as np
from braindecode_sam import make_regressor
net = make_regressor(
    "challenge_1", module="CompactCNN", module__n_chans=3, module__n_times=200,
    max_epochs=1, batch_size=8)
X = np.random.default_rng(0).normal(size=(32, 3, 200)).astype("float32")
net.fit(X, X[:, 0, 0])
print(json.dumps(measure()[0]))
"""
    assert run(script) >= 180
