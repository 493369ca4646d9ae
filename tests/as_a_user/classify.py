"""A classifier, its probabilities, and a pickle that another process reads."""

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
from braindecode import EEGClassifier
from sklearn.model_selection import cross_val_predict

from braindecode_sam import SAM, SAMCallback

rng = np.random.default_rng(0)
X = rng.normal(size=(24, 5, 200)).astype("float32")
y = np.tile([0, 1], 12)
net = EEGClassifier(
    "FastEEGNeX", optimizer=SAM, batch_size=4, max_epochs=1, verbose=0,
    train_split=None, callbacks=[SAMCallback()], classes=[0, 1],
)  # fmt: skip
print(cross_val_predict(net, X, y, cv=2, method="predict_proba").shape)
net.fit(X, y)
Path("net.pkl").write_bytes(pickle.dumps(net))
np.save("X.npy", X)
code = (
    "import pickle, numpy as np;"
    "print(pickle.load(open('net.pkl', 'rb')).predict(np.load('X.npy')).tolist())"
)
printed = subprocess.run(
    [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True
).stdout
print(printed.strip() == str(net.predict(X).tolist()))

# Prints:
# (24, 2)
# True
