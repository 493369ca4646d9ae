"""Training that is interrupted and resumed, also with other settings."""

import numpy as np
from braindecode import EEGRegressor

from braindecode_sam import SAM
from braindecode_sam.callbacks import ResumableCheckpoint

rng = np.random.default_rng(0)
X = rng.normal(size=(24, 5, 200)).astype("float32")
y = rng.normal(size=24).astype("float32")


def run(changed="raise", **options):
    checkpoint = ResumableCheckpoint("run.pt")
    net = EEGRegressor(
        "FastEEGNeX", optimizer=SAM, batch_size=4, verbose=0, train_split=None,
        callbacks=[checkpoint], **options,
    )  # fmt: skip
    if not checkpoint.exists():
        net.fit(X, y)
    else:
        checkpoint.resume(net, X, y, changed=changed)
    return len(net.history), net.optimizer_.param_groups[0]["lr"]


print(run(max_epochs=1, lr=0.01))
print(run(max_epochs=2, lr=0.01))
try:
    run(max_epochs=3, lr=0.5)
except ValueError as error:
    print(error)
print(run(max_epochs=3, lr=0.5, changed="ignore"))

# Prints:
# (1, 0.01)
# (2, 0.01)
# 'run.pt' is of another training: lr was 0.01, is 0.5. Expected the settings*
# (3, 0.5)
