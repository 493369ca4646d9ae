"""A net in scikit-learn's searches, ensembles and meta-estimators."""

import numpy as np
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import VotingRegressor
from sklearn.model_selection import GridSearchCV, learning_curve
from sklearn.preprocessing import StandardScaler

from braindecode_sam import make_regressor

rng = np.random.default_rng(0)
X = rng.normal(size=(24, 5, 200)).astype("float32")
y = rng.normal(size=24).astype("float32")
net = make_regressor(
    module__n_chans=5, module__n_times=200, batch_size=4, max_epochs=1, verbose=0
)
grid = {"optimizer__rho": [0.0, 0.1], "lr": [0.01, 0.001]}
search = GridSearchCV(net, grid, cv=2, error_score="raise").fit(X, y)
print(len(search.cv_results_["params"]), search.predict(X).shape)
print(VotingRegressor([("a", net), ("b", net)]).fit(X, y).predict(X).shape)
scaled = TransformedTargetRegressor(net, transformer=StandardScaler())
print(scaled.fit(X, y).predict(X).shape)
print(learning_curve(net, X, y, cv=2, train_sizes=[0.5, 1.0])[1].shape)

# Prints:
# 4 (24,)
# (24,)
# (24,)
# (2, 2)
