"""Every callback at once, with early stopping by subject."""

import numpy as np
from braindecode import EEGRegressor
from skorch.callbacks import EarlyStopping

from braindecode_sam import SAM, SAMCallback
from braindecode_sam.callbacks import SpeedUp, WindowCheck
from braindecode_sam.datasets import SubjectWindows
from braindecode_sam.model_selection import SubjectSplit

rng = np.random.default_rng(0)
X = rng.normal(size=(24, 5, 200)).astype("float32")
y = rng.normal(size=24).astype("float32")
net = EEGRegressor(
    "EEGNeX", optimizer=SAM, batch_size=4, max_epochs=3, verbose=0,
    train_split=SubjectSplit(2, random_state=0),
    callbacks=[
        ("check", WindowCheck()),
        ("sam", SAMCallback(schedule="cosine", start_epoch=1)),
        ("fast", SpeedUp(verbose=True)),
        ("early", EarlyStopping(patience=5)),
    ],
)  # fmt: skip
net.fit(SubjectWindows(X, np.repeat(np.arange(6), 4)), y)
print([round(rho, 3) for rho in net.history[:, "rho"]])
print(np.isfinite(net.history[1:, "sharpness"]).all())

# Prints:
#     layer   pattern*train_from*predict_from
# block_1.1 depthwise*
# [0.0, 0.05, 0.0]
# *
