"""
Choosing rho inside the training folds
======================================

Rho, SAM's radius, is chosen like any other parameter of an estimator: by
``GridSearchCV``, on folds of subjects *within* each training fold. The outer test folds
then tell what the choice is worth on people who had no part in it.
"""

import argparse

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import sklearn
from sklearn.compose import TransformedTargetRegressor
from sklearn.dummy import DummyRegressor
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_validate
from sklearn.preprocessing import StandardScaler

from braindecode_sam import SCORING, make_regressor
from braindecode_sam.datasets import simulate_response_times, to_arrays

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("--subjects", type=int, default=12)
parser.add_argument("--trials", type=int, default=12, help="of each subject")
parser.add_argument("--epochs", type=int, default=10)
parser.add_argument("--rhos", type=float, nargs="+", default=[0.0, 0.02, 0.1, 0.5])
args = parser.parse_args()

epochs = simulate_response_times(
    args.subjects, args.trials, n_chans=24, n_times=250, random_state=0
)
X, y, subjects = to_arrays(epochs, target="response_time")

# %%
# A search that knows the subjects
# --------------------------------
# With metadata routing, ``cross_validate`` hands the groups to the outer splitter and,
# for the rows of the training fold, to the search's own splitter. ``rho=0`` is among
# the candidates: it trains as AdamW alone, bit for bit, so SAM must earn its place.
# With a seed, candidates differ by rho and by nothing else.

sklearn.set_config(enable_metadata_routing=True)
net = make_regressor(
    "challenge_1", device="cpu", max_epochs=args.epochs, verbose=0, random_state=0,
    module__n_chans=24, module__n_times=250, batch_size=16,
)  # fmt: skip
search = GridSearchCV(
    TransformedTargetRegressor(net, transformer=StandardScaler()),
    {"regressor__optimizer__rho": args.rhos},
    cv=GroupKFold(2),
    scoring="neg_root_mean_squared_error",
)
outer = {
    "cv": GroupKFold(3), "scoring": SCORING, "params": {"groups": subjects},
    "error_score": "raise",
}  # fmt: skip
results = cross_validate(search, X, y, return_estimator=True, **outer)
mean = cross_validate(DummyRegressor(), X, y, **outer)
sklearn.set_config(enable_metadata_routing=False)

# %%
# What was chosen, and what it was worth
# --------------------------------------

inner = pd.DataFrame(
    [-fold.cv_results_["mean_test_score"] for fold in results["estimator"]],
    columns=pd.Index(args.rhos, name="rho"),
    index=[f"fold {i + 1}" for i in range(3)],
)
print("RMSE in the inner folds, seconds\n")
print(inner.round(4).to_string())
print()
for i, fold in enumerate(results["estimator"]):
    (rho,) = fold.best_params_.values()
    scores = -results["test_neg_nrmse"][i], -mean["test_neg_nrmse"][i]
    print(f"fold {i + 1}: chose rho {rho}, NRMSE {scores[0]:.3f}, mean {scores[1]:.3f}")
spread = np.ptp(inner.to_numpy(), axis=1).mean()
print(f"\nBest and worst rho differ by {spread:.4f} s in the inner folds.")

# %%
# How much rho matters
# --------------------
# Where the lines are flat, or cross, the data do not tell which rho is best, and any of
# them is as good a choice.

figure, ax = plt.subplots(layout="constrained")
positions = np.arange(len(args.rhos))
for name, row in inner.iterrows():
    (line,) = ax.plot(positions, row, "o-", label=f"outer {name}")
    best = int(row.to_numpy().argmin())
    ax.plot(best, row.iloc[best], "o", ms=12, mfc="none", color=line.get_color())
ax.set(
    xticks=positions,
    xticklabels=args.rhos,
    xlabel="rho",
    ylabel="RMSE in the inner folds (s)",
    title="Circled: the chosen rho",
)
ax.legend()
plt.show()
