"""Cross-validation, compared with AdamW."""

import numpy as np
import torch
from braindecode import EEGRegressor
from sklearn.model_selection import GroupKFold, cross_validate

from braindecode_sam import SAM, SCORING
from braindecode_sam.model_selection import out_of_fold_predictions

rng = np.random.default_rng(0)
X = rng.normal(size=(24, 5, 200)).astype("float32")
y = rng.normal(size=24).astype("float32")
subjects = np.repeat(np.arange(6), 4)
predictions = {}
for optimizer in (torch.optim.AdamW, SAM):
    net = EEGRegressor(
        "FastEEGNeX", optimizer=optimizer, batch_size=4, max_epochs=1, verbose=0,
        train_split=None,
    )  # fmt: skip
    results = cross_validate(
        net, X, y, groups=subjects, cv=GroupKFold(3), scoring=SCORING,
        return_estimator=True, return_indices=True, error_score="raise",
    )  # fmt: skip
    predictions[optimizer.__name__] = out_of_fold_predictions(results, X)
    print(optimizer.__name__, *(name for name in results if name.startswith("test_")))
print({name: y_pred.shape for name, y_pred in predictions.items()})

# Prints:
# AdamW test_neg_nrmse test_neg_nrmse_range test_r2 test_pearsonr
# SAM test_neg_nrmse test_neg_nrmse_range test_r2 test_pearsonr
# {'AdamW': (24, 1), 'SAM': (24, 1)}
