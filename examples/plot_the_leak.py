"""
The leak: folds of windows, folds of subjects
=============================================

Two habits make a model that has learned nothing about new subjects look
good. The first puts windows of the same subject into training and test
data, so that it is enough to recognize the subject. The second divides the
error by the range of the targets instead of their standard deviation.

Here nothing *can* be learned about new subjects: the target is a random
number for each of them.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from sklearn.compose import TransformedTargetRegressor
from sklearn.dummy import DummyRegressor
from sklearn.model_selection import GroupKFold, KFold, cross_val_predict
from sklearn.preprocessing import StandardScaler

from braindecode_sam import make_regressor
from braindecode_sam import normalized_root_mean_squared_error as nrmse
from braindecode_sam.datasets import simulate_response_times, to_arrays

N_SUBJECTS = 20
N_TRIALS = 20
N_EPOCHS = 20

# %%
# A target without a cause
# ------------------------
# Simulated subjects differ in the place and the frequency of their alpha
# rhythm. That says who they are, and nothing about the target.

epochs = simulate_response_times(
    N_SUBJECTS,
    N_TRIALS,
    n_chans=24,
    n_times=125,
    sfreq=62.5,
    random_state=0,
)
X, _, subjects = to_arrays(epochs, target="response_time")
_, subject = np.unique(subjects, return_inverse=True)
traits = np.random.RandomState(1).standard_normal(N_SUBJECTS)
y = traits[subject].astype(np.float32)

# %%
# The same model and windows, two kinds of folds
# ----------------------------------------------

net = make_regressor(
    "challenge_1", device="cpu", max_epochs=N_EPOCHS, batch_size=16,
    optimizer=torch.optim.AdamW, lr=3e-3, augmentation=None, verbose=0,
    module__n_chans=24, module__n_times=125, random_state=0,
    callbacks__seed__n_threads=1,
)  # fmt: skip
models = {
    "EEGNeX": TransformedTargetRegressor(net, transformer=StandardScaler()),
    "mean predictor": DummyRegressor(),
}
folds = {
    "windows": [*KFold(5, shuffle=True, random_state=0).split(X)],
    "subjects": [*GroupKFold(5).split(X, groups=subjects)],
}
rows = []
for model_name, model in models.items():
    for fold_name, cv in folds.items():
        y_pred = cross_val_predict(model, X, y, cv=cv, n_jobs=2)
        rows.append(
            {
                "model": model_name,
                "folds of": fold_name,
                "NRMSE, std": nrmse(y, y_pred),
                "NRMSE, range": nrmse(y, y_pred, normalization="range"),
            }
        )
table = pd.DataFrame(rows)
print(table.round(3).to_string(index=False))

# %%
# The first habit: folds of windows
# ---------------------------------
# By the standard deviation, predicting the mean scores about 1. Folds of
# windows turn a random number into a success. Folds of subjects show that
# there is none.

leaky, honest = table.loc[table["model"] == "EEGNeX", "NRMSE, std"]
print(f"EEGNeX, folds of windows {leaky:.3f}, of subjects {honest:.3f}")

figure, axes = plt.subplots(1, 2, figsize=(8, 3.8), layout="constrained")
for ax, column in zip(axes, ("NRMSE, std", "NRMSE, range"), strict=True):
    pivot = table.pivot(index="folds of", columns="model", values=column)
    pivot = pivot.loc[list(folds), list(models)]
    pivot.plot.bar(
        ax=ax, rot=0, color=["C0", "0.6"], xlabel="Folds of", legend=False
    )
    for bars in ax.containers:
        ax.bar_label(bars, fmt="%.2f", padding=2)
    ax.set(title=column, ylabel="NRMSE, all folds pooled")
    ax.margins(y=0.15)
axes[1].axhline(
    0.3008, color="C3", ls="--", label="competition notes: 0.3008"
)
figure.legend(loc="outside lower center", ncols=3, frameon=False)
plt.show()

# %%
# The second habit: dividing by the range
# ---------------------------------------
# The same predictions score a fraction by the range, the mean predictor's
# too. Numbers of the two kinds cannot be compared. In the competition notes
# (October 2025) an EEGNeX with an NRMSE of 0.3008, which is by the range,
# ranks above a CompactCNN with 1.0015, which is by the standard deviation.
# The notes split by subject: this habit alone explains the ranking.

by_range = table.loc[table["model"] == "mean predictor", "NRMSE, range"]
print(f"The mean predictor scores {by_range.max():.3f} by the range.")
