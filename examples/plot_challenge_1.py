"""
Regression over subjects
========================

Predict response times of new subjects, with AdamW and with SAM.

The configuration ``challenge_1`` holds a model, EEGNeX, its training with
SAM around AdamW, time shifts and Gaussian noise as augmentation, and five
folds of subjects. AdamW alone is trained on the same folds. The windows of
72 channels and 500 samples are simulated.
"""

import textwrap

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.compose import TransformedTargetRegressor
from sklearn.preprocessing import StandardScaler

from braindecode_sam import SAM, load_config, make_regressor
from braindecode_sam.comparison import compare
from braindecode_sam.datasets import simulate_response_times, to_arrays

N_SUBJECTS = 20
N_TRIALS = 16  # of each subject
N_EPOCHS = 10
N_JOBS = 2  # fits in parallel
DEVICE = "auto"

# %%
# The data
# --------
# ``simulate_response_times`` returns ``mne.Epochs`` whose metadata hold the
# subject and the response time of each trial. ``to_arrays`` turns them into
# what scikit-learn splits.

config = load_config("challenge_1")
epochs = simulate_response_times(
    N_SUBJECTS,
    N_TRIALS,
    n_chans=config.model.n_chans,
    n_times=config.model.n_times,
    random_state=0,
)
X, y, subjects = to_arrays(epochs, target="response_time")
n_trials, n_chans, n_times = X.shape
print(f"{n_trials} trials of {N_SUBJECTS} subjects, {n_chans} x {n_times}")

# %%
# The models
# ----------
# A call builds a net from the configuration; any parameter of an
# ``EEGRegressor`` can be given another value. scikit-learn standardizes the
# targets with those of the training subjects, since so few epochs leave no
# time to learn their mean.


def candidate(optimizer):
    """Build a net with an optimizer."""
    net = make_regressor(
        config, device=DEVICE, max_epochs=N_EPOCHS, verbose=0,
        optimizer=optimizer,
    )  # fmt: skip
    return TransformedTargetRegressor(net, transformer=StandardScaler())


models = {
    "AdamW": candidate(torch.optim.AdamW),
    "SAM": candidate(SAM),  # rho = 0.05, as in the configuration
}

# %%
# Five folds, no subject on both sides
# ------------------------------------
# All models get the same folds and the same seed. ``compare`` adds a
# predictor of the mean.

result = compare(
    models, X, y, subjects, cv=config.n_splits, n_seeds=1, n_jobs=N_JOBS
)

# %%
# Scores
# ------
# The NRMSE is the root mean squared error divided by the standard deviation
# of the targets. Pooled over all folds, predicting the mean scores about 1.
# In a single fold it scores more, since the mean of the training subjects
# is not that of the test subjects. Some authors divide by the range of the
# targets instead. Then all scores are smaller, and scores of the two kinds
# cannot be compared.

tables = {}
print("\nNRMSE, lower is better\n")
for kind, metric in {
    "std": "neg_nrmse",
    "range": "neg_nrmse_range",
}.items():
    scores = result.scores("fold").pivot(
        index="fold", columns="estimator", values=metric
    )
    table = -scores.rename_axis(index=None, columns=None)[result.estimators]
    table.index = [f"fold {fold}" for fold in table.index]
    table.loc["mean"] = table.mean()
    table.loc["pooled"] = -result.to_frame()[metric]
    print(f"by {kind}")
    print(table.round(3).to_string(), end="\n\n")
    tables[kind] = table

# %%
# Does SAM help?
# --------------
# The squared errors of the two models are compared subject by subject. One
# seed of short trainings is a demonstration. The :doc:`study </study>` has
# more epochs, seeds and subjects.

for sentence in result.sentences():
    print(textwrap.fill(sentence, 72))

folds = tables["std"].iloc[:-2]
figure, ax = plt.subplots(figsize=(7, 3.8), layout="constrained")
folds[list(models)].plot.bar(ax=ax, rot=0, width=0.7, color=["0.45", "C0"])
x = np.arange(len(folds))
ax.hlines(
    folds["dummy"], x - 0.45, x + 0.45, color="k", label="mean predictor"
)
ax.set_ylabel("NRMSE (standard deviation)")
ax.set_ylim(0, 1.25 * folds.to_numpy().max())
ax.legend(loc="upper center", ncols=3, frameon=False, fontsize="small")
plt.show()
