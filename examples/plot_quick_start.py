"""
Quick start: AdamW and SAM
==========================

Train a classifier with AdamW and with SAM, and compare them in one call.

Both are trained on the same folds of subjects. The EEG is simulated, and
its trials are labeled by their response times. Put your own ``X``, ``y``
and ``subjects`` in their place.
"""

import textwrap

import matplotlib.pyplot as plt
import numpy as np
import torch

from braindecode_sam import SAM, make_classifier
from braindecode_sam.comparison import compare
from braindecode_sam.datasets import simulate_response_times, to_arrays

N_SUBJECTS = 12
N_TRIALS = 16
N_EPOCHS = 15

epochs = simulate_response_times(
    N_SUBJECTS, N_TRIALS, n_chans=16, n_times=250, random_state=0
)
X, seconds, subjects = to_arrays(epochs, target="response_time")
medians = [np.median(seconds[subjects == s]) for s in subjects]
y = np.where(seconds < medians, "fast", "slow")

options = {
    "module": "FastEEGNet", "device": "cpu", "batch_size": 16,
    "max_epochs": N_EPOCHS, "verbose": 0,
}  # fmt: skip
classifiers = {
    "AdamW": make_classifier(optimizer=torch.optim.AdamW, **options),
    "SAM": make_classifier(optimizer=SAM, **options),
}
result = compare(
    classifiers, X, y, subjects, n_seeds=1, n_jobs=2, verbose=0
)
print(result.to_frame()[["balanced_accuracy", "roc_auc", "loss"]].round(3))

# %%
# The sentences of the result say what can be concluded. In the figure, a
# thin line is a subject. Below are the differences, with a 95 % interval.

for sentence in result.sentences():
    print(textwrap.fill(sentence, 72))
result.plot()
plt.show()
