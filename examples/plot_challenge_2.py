"""
Challenge 2: eight outputs at once
==================================

One model predicts eight numbers from windows of 104 channels and 1000
samples, with the configuration of the competition notes for the second
challenge of the 2025 competition: EEGNeX, trained with SAM around Adamax.
Adamax alone is trained on the same folds. The example runs on a GPU if
PyTorch can use one. The data are simulated so that a lower bound of
the error is known for each output.
"""

import textwrap

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.compose import TransformedTargetRegressor
from sklearn.preprocessing import StandardScaler

from braindecode_sam import (
    SAM,
    load_config,
    make_regressor,
    resolve_device,
)
from braindecode_sam import normalized_root_mean_squared_error as nrmse
from braindecode_sam.comparison import compare
from braindecode_sam.datasets import simulate_response_times, to_arrays

N_SUBJECTS = 20
N_TRIALS = 10  # of each subject
N_EPOCHS = 10
N_JOBS = 2  # fits in parallel
DEVICE = "auto"

# %%
# Eight targets
# -------------
# The first target is the response time, the others are copies of it with
# more and more noise. ``noise[k]`` is the fraction of target k's standard
# deviation that is independent of the EEG, a lower bound of the NRMSE.

config = load_config("challenge_2")
epochs = simulate_response_times(
    N_SUBJECTS,
    N_TRIALS,
    n_chans=config.model.n_chans,
    n_times=config.model.n_times,
    sfreq=250,
    random_state=0,
)
noise = np.linspace(0, 0.7, config.model.n_outputs)
rng = np.random.RandomState(0)
times = epochs.metadata[["response_time"]]
known = StandardScaler().fit_transform(times)
unknown = rng.standard_normal((len(known), len(noise)))
names = [f"target {k + 1}" for k in range(len(noise))]
epochs.metadata[names] = np.sqrt(1 - noise**2) * known + noise * unknown
X, y, subjects = to_arrays(epochs, target=names)
print(f"X {X.shape}, y {y.shape}")

# %%
# The device
# ----------
# ``"cuda:1"``, ``"rocm"`` and ``"mps"`` are accepted, too, and raise an
# error with advice where PyTorch cannot use them. On a GPU with little
# memory pass a smaller ``batch_size``.

device = resolve_device(DEVICE)
print(f"Training on {device}")


def candidate(optimizer, **options):
    """Build a net with an optimizer."""
    net = make_regressor(
        config, device=device, max_epochs=N_EPOCHS, verbose=0,
        optimizer=optimizer, **options,
    )  # fmt: skip
    return TransformedTargetRegressor(net, transformer=StandardScaler())


models = {
    "Adamax": candidate(torch.optim.Adamax),
    "SAM": candidate(SAM),  # around Adamax, rho = 0.05
}

# %%
# Five folds of subjects
# ----------------------

result = compare(
    models, X, y, subjects, cv=config.n_splits, n_seeds=1, n_jobs=N_JOBS,
    verbose=0,
)  # fmt: skip

# %%
# Scores
# ------
# All folds pooled. The competition averages the NRMSE over the outputs;
# ``multioutput="raw_values"`` returns each.

each = {
    name: nrmse(y, y_pred[0], multioutput="raw_values")
    for name, y_pred in result.y_pred.items()
}
print("NRMSE, averaged over the outputs, lower is better\n")
for name, errors in {**each, "lower bound": noise}.items():
    shown = name.replace("dummy", "mean predictor")
    print(f"{shown:>15}: {errors.mean():.3f}")
for sentence in result.sentences():
    print(textwrap.fill(sentence, 72))

# %%
# Each output next to its lower bound
# -----------------------------------
# A few epochs on a few subjects leave the models far from it.

figure, ax = plt.subplots(figsize=(7, 4), layout="constrained")
rows = np.arange(len(names))
ax.plot(each["dummy"], rows, "|", c="k", ms=14, label="mean predictor")
for shift, name in zip((-0.12, 0.12), models, strict=True):
    ax.plot(each[name], rows + shift, "o", label=f"EEGNeX, {name}")
ax.plot(noise, rows, "|", c="C7", ms=14, mew=3, label="lower bound")
ax.set_yticks(rows, names)
ax.invert_yaxis()
ax.set(
    title="Noise grows from target 1 to target 8",
    xlabel="NRMSE (standard deviation), all folds pooled",
    xlim=(-0.02, None),
)
ax.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
plt.show()
