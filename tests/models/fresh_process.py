"""What a process finds that has imported nothing of this package; see test_fast.py."""

import ctypes
import json
import os
import pickle
import sys
from pathlib import Path

import torch

KEPT = []


class Counts(ctypes.Structure):
    """glibc's mallinfo2; the fourth number counts blocks apart from the heap."""

    _fields_ = [(name, ctypes.c_size_t) for name in "abcdefghij"]


def asks_the_system():
    """Whether the C library asks the system for a block of 30 MiB."""
    libc = ctypes.CDLL(None)
    libc.mallinfo2.restype = Counts
    before = libc.mallinfo2().d
    KEPT.append(torch.empty(30 * 2**20, dtype=torch.uint8))
    return libc.mallinfo2().d > before


def asks_after_building():
    from braindecode_sam import FastEEGNet

    FastEEGNet(n_chans=4, n_times=150, n_outputs=1)
    return asks_the_system()


def asks_if_switched_off():
    child = os.fork()
    if child == 0:
        os.environ["BRAINDECODE_SAM_KEEP_MEMORY"] = "0"
        os._exit(asks_after_building())
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1


def main(folder):
    x, expected = torch.load(folder / "data.pt")
    model = torch.load(folder / "model.pt", weights_only=False)
    net = pickle.loads((folder / "net.pkl").read_bytes())
    found = {}
    if hasattr(ctypes.CDLL(None), "mallinfo2"):
        found["asks"] = asks_the_system(), asks_if_switched_off(), asks_after_building()
    found["model"] = type(model).__name__, torch.equal(model(x), expected)
    found["predicted"] = net.predict(x.numpy()).tolist()
    found["net"] = type(net.initialize().module_).__name__
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
