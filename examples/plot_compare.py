"""
Does SAM help on my data?
=========================

One call trains every candidate on the same folds of subjects and the same seeds, and
compares them person by person. Here the data are simulated response times; put your own
X, y and subjects in their place.
"""

import argparse
import textwrap

import matplotlib.pyplot as plt
import torch
from sklearn.compose import TransformedTargetRegressor
from sklearn.preprocessing import StandardScaler

from braindecode_sam import SAM, make_regressor
from braindecode_sam.comparison import compare
from braindecode_sam.datasets import simulate_response_times, to_arrays

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("--subjects", type=int, default=12)
parser.add_argument("--trials", type=int, default=16, help="of each subject")
parser.add_argument("--epochs", type=int, default=15)
parser.add_argument("--seeds", type=int, default=2)
parser.add_argument("--jobs", type=int, default=2, help="fits at a time")
parser.add_argument("--report", default="report.html", help="the page to write")
args = parser.parse_args()

epochs = simulate_response_times(
    args.subjects, args.trials, n_chans=16, n_times=250, sfreq=125.0, random_state=0
)
X, y, subjects = to_arrays(epochs, target="response_time")

# %%
# Candidates
# ----------
# Any estimators of scikit-learn will do; the others are compared with the first. They
# differ by the optimizer and by nothing else: each seed gives all of them the same
# initial weights and the same order of the windows. Targets are scaled on the training
# folds.


def candidate(optimizer, **options):
    """Build a net with an optimizer."""
    net = make_regressor(
        "challenge_1", device="cpu", max_epochs=args.epochs, verbose=0,
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
# ``by_epoch=True`` also scores the held-out people after every epoch. Nothing is chosen
# by these scores. With ``folder="fits"`` a second call would continue where a first one
# was stopped, and could bring further candidates and seeds.

result = compare(
    candidates, X, y, subjects, n_seeds=args.seeds, by_epoch=True, n_jobs=args.jobs
)
print()
print(result.to_frame()[["neg_nrmse", "r2", "loss", "loss_low", "loss_high"]].round(3))

# %%
# Every person counts once
# ------------------------
# A line is a person, from the loss with AdamW to the loss with SAM. Below are the
# differences and the bootstrap interval of their mean. A filled circle stands for a
# difference that is significant after correction for the number of comparisons.

result.plot()
for sentence in result.sentences():
    print(textwrap.fill(sentence, 80))

# %%
# The held-out loss after every epoch
# -----------------------------------
# Where one curve stays low for longer, its number of epochs matters less.

result.plot_by_epoch()
plt.show()

# %%
# A page to keep
# --------------
# Tables, pictures, settings and versions in one self-contained HTML file.

result.report(args.report, title="AdamW or SAM?")
