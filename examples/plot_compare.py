"""
Does SAM help on my data?
=========================

One call trains every candidate on the same folds of subjects and the same
seeds and compares them subject by subject. Here the data are simulated
response times. Put your own ``X``, ``y`` and ``subjects`` in their place.
"""

import textwrap

import matplotlib.pyplot as plt
import torch
from sklearn.compose import TransformedTargetRegressor
from sklearn.preprocessing import StandardScaler

from braindecode_sam import SAM, make_regressor
from braindecode_sam.comparison import compare
from braindecode_sam.datasets import simulate_response_times, to_arrays

N_SUBJECTS = 12
N_TRIALS = 16
N_EPOCHS = 15
N_SEEDS = 2
N_JOBS = 2  # fits in parallel
REPORT = "report.html"

epochs = simulate_response_times(
    N_SUBJECTS, N_TRIALS, n_chans=16, n_times=250, random_state=0
)
X, y, subjects = to_arrays(epochs, target="response_time")

# %%
# Candidates
# ----------
# Any estimators of scikit-learn work. All are compared with the first. They
# differ in the optimizer only: each seed gives them the same initial
# weights and the same order of the windows. Targets are scaled on the
# training folds.


def candidate(optimizer, **options):
    """Build a net with an optimizer."""
    net = make_regressor(
        "challenge_1", device="cpu", max_epochs=N_EPOCHS, verbose=0,
        module__n_chans=16, module__n_times=250, batch_size=16,
        augmentation=None, optimizer=optimizer, **options,
    )  # fmt: skip
    return TransformedTargetRegressor(net, transformer=StandardScaler())


candidates = {
    "AdamW": candidate(torch.optim.AdamW),
    "SAM": candidate(SAM, optimizer__rho=0.1),
}

# %%
# One call
# --------
# ``by_epoch=True`` also scores the held-out subjects after every epoch.
# Nothing is chosen by these scores. With ``folder="fits"`` a second call
# would continue where a first one was stopped, and could add further
# candidates and seeds.

result = compare(
    candidates, X, y, subjects, n_seeds=N_SEEDS, by_epoch=True,
    n_jobs=N_JOBS, verbose=0,
)  # fmt: skip
columns = ["neg_nrmse", "r2", "loss", "loss_low", "loss_high"]
print(result.to_frame()[columns].round(3))

# %%
# Every subject counts once
# -------------------------
# A thin line is a subject, from the loss with AdamW to the loss with SAM.
# Below are the differences and the bootstrap interval of their mean. A
# filled circle is a difference that is significant after correction for the
# number of comparisons.

result.plot()
for sentence in result.sentences():
    print(textwrap.fill(sentence, 72))

# %%
# The held-out loss after every epoch
# -----------------------------------
# Where a curve stays low for longer, the number of epochs matters less.

result.plot_by_epoch()
plt.show()

# %%
# A page to keep
# --------------
# Tables, figures, settings and versions in one self-contained HTML file.

result.report(REPORT, title="AdamW or SAM?")
