"""
The leak: folds of windows, folds of subjects
=============================================

Two habits make a model that has learned nothing look good.

The first puts windows of the same subject into training and test data, so
that it is enough to recognize the subject. The second divides the error by
the range of the targets instead of their standard deviation.

Here nothing *can* be learned about new subjects: the target is a random
number for each of them.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.dummy import DummyRegressor
from sklearn.model_selection import GroupKFold, KFold, cross_val_predict
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from braindecode_sam import normalized_root_mean_squared_error as nrmse
from braindecode_sam.datasets import simulate_response_times, to_arrays

N_SUBJECTS = 20
N_TRIALS = 30

# %%
# A target without a cause
# ------------------------
# Simulated subjects differ in the place and the frequency of their alpha
# rhythm. That says who they are, and nothing about the target.

epochs = simulate_response_times(
    N_SUBJECTS, N_TRIALS, n_chans=24, n_times=500, random_state=0
)
X, _, subjects = to_arrays(epochs, target="response_time")
_, subject = np.unique(subjects, return_inverse=True)
traits = np.random.RandomState(1).standard_normal(N_SUBJECTS)
y = traits[subject]

# %%
# The same model and windows, two kinds of folds
# ----------------------------------------------
# A model that remembers is enough: it predicts the target of the training
# windows whose alpha power is nearest. A deep model can do the same.


def alpha_power(X):
    """Give the logarithm of each channel's power around 10 Hz."""
    frequencies = np.fft.rfftfreq(X.shape[2], 1 / epochs.info["sfreq"])
    is_alpha = (frequencies >= 7.5) & (frequencies <= 12.5)
    spectra = np.fft.rfft(X * np.hanning(X.shape[2]))[..., is_alpha]
    return np.log((np.abs(spectra) ** 2).mean(axis=2))


models = {
    "nearest neighbors": make_pipeline(
        FunctionTransformer(alpha_power),
        StandardScaler(),
        KNeighborsRegressor(5, weights="distance"),
    ),
    "mean predictor": DummyRegressor(),
}
folds = {
    "windows": [*KFold(5, shuffle=True, random_state=0).split(X)],
    "subjects": [*GroupKFold(5).split(X, groups=subjects)],
}
rows = []
for model_name, model in models.items():
    for fold_name, cv in folds.items():
        y_pred = cross_val_predict(model, X, y, cv=cv)
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
# By the standard deviation, predicting the mean scores about 1, with all
# folds pooled. Folds of windows turn a random number into a success. Folds
# of subjects show that there is none.

is_mean = table["model"] == "mean predictor"
leaky, honest = table.loc[~is_mean, "NRMSE, std"]
print(
    f"NRMSE, folds of windows {leaky:.3f}, folds of subjects {honest:.3f}"
)

figure, axes = plt.subplots(1, 2, figsize=(8, 3.8), layout="constrained")
for ax, column in zip(axes, ("NRMSE, std", "NRMSE, range"), strict=True):
    pivot = table.pivot(index="folds of", columns="model", values=column)
    pivot = pivot.loc[list(folds), list(models)]
    pivot.plot.bar(
        ax=ax, rot=0, color=["C1", "0.6"], xlabel="Folds of", legend=False
    )
    for bars in ax.containers:
        ax.bar_label(bars, fmt="%.2f", label_type="center", color="w")
    ax.set(title=column, ylabel="NRMSE, all folds pooled")
figure.legend(
    handles=axes[1].containers,
    loc="outside lower center",
    ncols=2,
    frameon=False,
)
plt.show()

# %%
# The second habit: dividing by the range
# ---------------------------------------
# By the range, the same predictions score a fraction, and so does the mean
# predictor. A model that predicts the mean and is scored by the range seems
# to be far better than a model that is scored by the standard deviation.
# State which of the two you use, next to the score of the mean predictor.

by_range = table.loc[is_mean, "NRMSE, range"].max()
print(f"The mean predictor scores {by_range:.3f} by the range.")
