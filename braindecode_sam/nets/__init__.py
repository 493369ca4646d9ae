"""EEG regressors and classifiers that follow scikit-learn's conventions."""

from braindecode_sam.nets._classifier import Classifier
from braindecode_sam.nets._regressor import Regressor
from braindecode_sam.nets._stock import stock_model

__all__ = ["Classifier", "Regressor", "stock_model"]
