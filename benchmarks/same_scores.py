"""Train EEGNeX and FastEEGNeX on real EEG and compare their scores.

Both models are trained from the same seed, without dropout, on the recordings of mental
arithmetic of PhysioNet's EEGMAT. The scores are the NRMSEs of the pooled out-of-fold
predictions. If the models compute in float64, the scores differ by rounding only. In
float32, Adam turns rounding errors of gradients whose true value is zero into full
steps. Even EEGNeX then differs from itself if it sums in another order, as
``--one-thread`` shows.
"""

import argparse
import functools
from pathlib import Path

import numpy as np
import torch
from _eegmat import read_subtractions
from _report import MODELS, print_table
from braindecode import EEGRegressor
from sklearn.compose import TransformedTargetRegressor
from sklearn.model_selection import GroupKFold
from sklearn.preprocessing import StandardScaler

from braindecode_sam import SAM
from braindecode_sam import normalized_root_mean_squared_error as nrmse

OPTIMIZERS = {"AdamW": torch.optim.AdamW, "SAM": SAM}


def in_float64(cls):
    """Make a model compute in float64, although nets feed it float32."""

    class Model(cls):
        @functools.wraps(cls.__init__)
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.double()

        def forward(self, x):
            return super().forward(x.double()).float()

    return Model


def predict_out_of_fold(model, data, args):
    """Predict all windows, each with a net that was not trained on its subject."""
    X, y, subjects = data
    module = in_float64(MODELS[model]) if args.dtype == "float64" else MODELS[model]
    net = EEGRegressor(
        module, module__drop_prob=0.0, max_epochs=args.epochs, batch_size=32,
        optimizer=OPTIMIZERS[args.optimizer], lr=1e-3, optimizer__weight_decay=0.01,
        train_split=None, verbose=0, device=args.device,
    )  # fmt: skip
    regressor = TransformedTargetRegressor(net, transformer=StandardScaler())
    predictions = np.zeros(len(y))
    for train, test in GroupKFold(args.folds).split(X, y, subjects):
        torch.manual_seed(0)  # initialization and shuffling
        predictions[test] = regressor.fit(X[train], y[train]).predict(X[test])
    return predictions


def main():
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="of the files SubjectNN_2.edf")
    parser.add_argument("--optimizer", default="AdamW", choices=OPTIMIZERS)
    parser.add_argument("--dtype", default="float64", choices=["float64", "float32"])
    parser.add_argument("--sfreq", type=float, default=125)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--one-thread", action="store_true", help="train EEGNeX again with one thread"
    )
    parser.add_argument("--csv", help="also write the table to this file")
    args = parser.parse_args()
    data = read_subtractions(args.folder, "Subject*_2.edf", args.sfreq, on_bad="warn")
    y = data[1]
    predictions = {model: predict_out_of_fold(model, data, args) for model in MODELS}
    if args.one_thread:
        torch.set_num_threads(1)
        predictions["stock, one thread"] = predict_out_of_fold("stock", data, args)
    rows = []
    for normalization in ("std", "range"):
        scores = {
            model: nrmse(y, found, normalization=normalization)
            for model, found in predictions.items()
        }
        rows += [
            {
                "NRMSE by": normalization,
                "model": model,
                "score": f"{score:.6f}",
                "minus stock": f"{score - scores['stock']:.1e}",
            }
            for model, score in scores.items()
        ]
    print(args.dtype, args.optimizer, data[0].shape)
    print_table(rows, args.csv)


if __name__ == "__main__":
    main()
