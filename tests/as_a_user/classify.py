"""Labels as strings, scores by subject, and a pickle."""

import pickle

import numpy as np
from sklearn.model_selection import GroupKFold, cross_val_predict, cross_validate

from braindecode_sam import SCORING_CLASSIFICATION, make_classifier
from braindecode_sam.datasets import SubjectWindows
from braindecode_sam.model_selection import SubjectSplit

rng = np.random.default_rng(0)
X = rng.normal(size=(48, 5, 200)).astype("float32")
y = np.tile(["left", "right", "rest", "rest"], 12)
subjects = np.repeat(["s1", "s2", "s3", "s4", "s5", "s6"], 8)

net = make_classifier(
    device="cpu", max_epochs=2, batch_size=8, verbose=0, random_state=0,
    class_weight="balanced", train_split=SubjectSplit(1, random_state=0),
)  # fmt: skip
windows = SubjectWindows(X, subjects)
scores = cross_validate(
    net, windows, y, groups=subjects, cv=GroupKFold(3),
    scoring=SCORING_CLASSIFICATION, error_score="raise",
)  # fmt: skip
for name in SCORING_CLASSIFICATION:
    print(name, scores[f"test_{name}"].shape, np.isfinite(scores[f"test_{name}"]).all())
print(
    cross_val_predict(
        net, windows, y, groups=subjects, cv=GroupKFold(3), method="predict_proba"
    ).shape
)

net.fit(windows, y)
print(net.classes_, sorted(set(net.predict(X)) - {"left", "rest", "right"}))
print("valid_acc" in net.history[-1], net.criterion_.weight)
print((pickle.loads(pickle.dumps(net)).predict(X) == net.predict(X)).all())

try:
    make_classifier(device="cpu", verbose=0, classes=["left", "right"]).fit(X, y)
except ValueError as error:
    print(error)

# Prints:
# balanced_accuracy (3,) True
# neg_log_loss (3,) True
# roc_auc (3,) True
# (48, 3)
# ['left' 'rest' 'right'] []
# True tensor([1.3333, 0.6667, 1.3333])
# True
# y must hold labels among the classes ['left', 'right'], got 'rest'
