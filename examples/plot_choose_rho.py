"""
Choosing rho inside the training folds
======================================

Choose the radius of SAM without a leak, and measure what the choice gains.

Rho is chosen like any other parameter of an estimator: with
``GridSearchCV``, on folds of subjects *within* each training fold. The
outer test folds then say what the choice is worth on subjects who had no
part in it.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import sklearn
from sklearn.compose import TransformedTargetRegressor
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    cross_validate,
)
from sklearn.preprocessing import StandardScaler

from braindecode_sam import make_regressor
from braindecode_sam.comparison import paired_comparison
from braindecode_sam.datasets import simulate_response_times, to_arrays
from braindecode_sam.metrics import normalized_root_mean_squared_error
from braindecode_sam.model_selection import out_of_fold_predictions

N_SUBJECTS = 12
N_TRIALS = 12
N_EPOCHS = 10
RHOS = [0.0, 0.05, 0.1, 0.2]  # 0 is AdamW

epochs = simulate_response_times(
    N_SUBJECTS, N_TRIALS, n_chans=24, n_times=250, random_state=0
)
X, y, subjects = to_arrays(epochs, target="response_time")

# %%
# A search that knows the subjects
# --------------------------------
# With metadata routing, ``cross_validate`` passes the groups to the outer
# splitter and, for the rows of the training fold, to the splitter of the
# search. ``rho=0`` is among the candidates. It trains bit for bit as AdamW
# alone, so SAM must earn its place. With a seed, candidates differ by rho
# only.

sklearn.set_config(enable_metadata_routing=True)
net = make_regressor(
    "challenge_1", device="cpu", max_epochs=N_EPOCHS, verbose=0,
    module__n_chans=24, module__n_times=250, batch_size=16, random_state=0,
    n_threads=1,
)  # fmt: skip
model = TransformedTargetRegressor(net, transformer=StandardScaler())
search = GridSearchCV(
    model,
    {"regressor__optimizer__rho": RHOS},
    cv=GroupKFold(2),
    scoring="neg_root_mean_squared_error",
)
adamw = sklearn.clone(model).set_params(regressor__optimizer__rho=0.0)
outer = {
    "cv": GroupKFold(3), "params": {"groups": subjects}, "n_jobs": 2,
    "return_estimator": True, "return_indices": True,
    "error_score": "raise",
}  # fmt: skip
searched = cross_validate(search, X, y, **outer)
plain = cross_validate(adamw, X, y, **outer)
sklearn.set_config(enable_metadata_routing=False)

# %%
# What was chosen
# ---------------

inner = pd.DataFrame(
    [
        -fold.cv_results_["mean_test_score"]
        for fold in searched["estimator"]
    ],
    columns=pd.Index(RHOS, name="rho"),
    index=[f"fold {i + 1}" for i in range(3)],
)
print("RMSE in the inner folds, seconds\n")
print(inner.round(4).to_string())
chosen = [
    next(iter(fold.best_params_.values())) for fold in searched["estimator"]
]
print(f"\nchosen rho: {chosen}")

# %%
# What it was worth
# -----------------
# The out-of-fold predictions of all subjects are compared, with an interval
# over subjects. Negative differences are in favor of the chosen rho. They
# hold for this short training with one seed: after 20 epochs on more
# subjects, the :doc:`study </study>` found no significant difference
# between SAM and AdamW on simulated response times.

predictions = {
    "AdamW": out_of_fold_predictions(plain, X),
    "chosen rho": out_of_fold_predictions(searched, X),
}
for name, y_pred in predictions.items():
    nrmse = normalized_root_mean_squared_error(y, y_pred)
    print(f"{name}: NRMSE {nrmse:.3f}, all folds pooled")
found = paired_comparison(
    predictions["chosen rho"], predictions["AdamW"], y, subjects
)
print(
    f"normalized squared error, difference: {found.difference:+.3f}"
    f" ({found.ci_low:+.3f} to {found.ci_high:+.3f}), lower for"
    f" {found.n_better} of {found.n_subjects} subjects"
)

# %%
# How much rho matters
# --------------------
# Left: the inner folds, relative to AdamW; the circle is the chosen rho.
# Where a line is flat, the data do not distinguish the radii. Right: the
# error on the outer test folds.

figure, (left, right) = plt.subplots(
    1, 2, figsize=(8, 3.8), layout="constrained", width_ratios=(3, 2)
)
positions = np.arange(len(RHOS))
change = 1e3 * inner.sub(inner[0.0], axis=0)
for color, (name, row) in zip(
    ["C1", "C2", "C4"], change.iterrows(), strict=True
):
    left.plot(positions, row, ".-", color=color, label=f"outer {name}")
    best = int(row.to_numpy().argmin())
    left.plot(best, row.iloc[best], "o", ms=11, mfc="none", c=color)
left.axhline(0, color="0.4", ls=":")
left.set(
    xticks=positions,
    xticklabels=RHOS,
    xlabel="rho",
    ylabel="Inner RMSE, change to rho = 0 (ms)",
)
left.legend(frameon=False)
rmses = {
    name: [
        1e3 * np.sqrt(np.mean((y[test] - y_pred[test].ravel()) ** 2))
        for test in plain["indices"]["test"]
    ]
    for name, y_pred in predictions.items()
}
pd.DataFrame(rmses, index=[1, 2, 3]).plot.bar(
    ax=right, rot=0, color=["0.45", "C0"]
)
right.set(xlabel="Outer fold", ylabel="RMSE (ms)")
right.margins(y=0.25)
right.legend(loc="upper center", frameon=False)
plt.show()
