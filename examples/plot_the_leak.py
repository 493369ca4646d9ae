"""
The leak: folds of windows against folds of people
==================================================

Two habits make a net that has learned nothing about new people look good. Windows of
one person land in training and in test data, so that it is enough to recognize the
person; and the error is divided by the range of the targets instead of their standard
deviation. Together they explain how a model comparison of October 2025 could set an
EEGNeX with an NRMSE of 0.3008 above a CompactCNN with 1.0015.

Here nothing *can* be learned about new people: the target is a random number for each.
"""

import argparse

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.compose import TransformedTargetRegressor
from sklearn.dummy import DummyRegressor
from sklearn.model_selection import GroupKFold, KFold, cross_val_predict
from sklearn.preprocessing import StandardScaler

from braindecode_sam import make_regressor
from braindecode_sam import normalized_root_mean_squared_error as nrmse
from braindecode_sam.datasets import simulate_response_times, to_arrays

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("--subjects", type=int, default=20)
parser.add_argument("--trials", type=int, default=12, help="of each subject")
parser.add_argument("--epochs", type=int, default=12)
args = parser.parse_args()

# %%
# A target without a cause
# ------------------------
# Simulated people differ in their alpha rhythm, its place and its frequency. That does
# not tell the target, but who they are.

epochs = simulate_response_times(
    args.subjects, args.trials, n_chans=24, n_times=250, random_state=0
)
X, _, subjects = to_arrays(epochs, target="response_time")
_, person = np.unique(subjects, return_inverse=True)
y = np.random.RandomState(1).standard_normal(args.subjects)[person].astype(np.float32)

# %%
# The same net, the same windows, two kinds of folds
# --------------------------------------------------

net = make_regressor(
    "challenge_1", device="cpu", max_epochs=args.epochs, random_state=0, verbose=0,
    module__n_chans=24, module__n_times=250, batch_size=16, lr=3e-3,
)  # fmt: skip
models = {
    "net": TransformedTargetRegressor(net, transformer=StandardScaler()),
    "mean predictor": DummyRegressor(),
}
folds = {
    "KFold of windows": [*KFold(5, shuffle=True, random_state=0).split(X)],
    "GroupKFold of people": [*GroupKFold(5).split(X, groups=subjects)],
}
rows = []
for model_name, model in models.items():
    for fold_name, cv in folds.items():
        y_pred = cross_val_predict(model, X, y, cv=cv)
        rows.append(
            {
                "model": model_name,
                "folds": fold_name,
                "NRMSE, std": nrmse(y, y_pred),
                "NRMSE, range": nrmse(y, y_pred, normalization="range"),
            }
        )
table = pd.DataFrame(rows)
print(table.round(3).to_string(index=False))

# %%
# What each habit does to the number
# ----------------------------------
# 1 is what always predicting the mean scores by the standard deviation. Dividing by the
# range takes the same predictions to a third or a quarter of that: an NRMSE of 0.3 by
# range can be *worse* than the mean. And the random folds turn a random number into a
# success, by either measure.

by_range = table.loc[table["model"] == "mean predictor", "NRMSE, range"].min()
leaky, honest = table.loc[table["model"] == "net", "NRMSE, std"]
print(
    f"\nThe mean predictor scores {by_range:.3f} by range; the source reports 0.3008."
)
print(f"Windows of the same people in both: {leaky:.3f}; new people: {honest:.3f}.")

figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained", sharey=True)
for ax, column in zip(axes, ("NRMSE, std", "NRMSE, range"), strict=True):
    pivot = table.pivot(index="folds", columns="model", values=column)
    pivot = pivot.loc[list(folds), list(models)]
    pivot.plot.bar(ax=ax, rot=0, color=["C0", "0.6"], xlabel="")
    for bars in ax.containers:
        ax.bar_label(bars, fmt="%.2f", bbox={"fc": "w", "ec": "none", "pad": 0.5})
    ax.axhline(0.3008, color="C3", ls="--", label="reported: 0.3008")
    ax.set(title=column, ylabel="pooled NRMSE")
    ax.margins(y=0.2)
axes[0].legend(loc="upper left", fontsize="small")
axes[1].get_legend().remove()
plt.show()
