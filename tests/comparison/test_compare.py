"""compare, checked against single fits with scikit-learn."""

import os
import pickle
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import joblib
import mne
import numpy as np
import pandas as pd
import pytest
import torch
from braindecode import EEGClassifier, EEGRegressor
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import TransformedTargetRegressor
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.ensemble import RandomForestRegressor, VotingRegressor
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.metrics import make_scorer, r2_score
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    KFold,
    cross_val_predict,
    cross_validate,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import LinearSVC
from skorch import NeuralNetRegressor
from skorch.callbacks import Checkpoint, EarlyStopping, LRScheduler
from torch.optim.lr_scheduler import ExponentialLR, StepLR

from braindecode_sam import SAM, SCORING, SCORING_CLASSIFICATION
from braindecode_sam.callbacks import SeedCallback
from braindecode_sam.comparison import compare, paired_comparison
from braindecode_sam.datasets import SubjectWindows
from braindecode_sam.model_selection import SubjectSplit

# compare warns that nets trained for an epoch or two hardly learn.
pytestmark = [
    pytest.mark.filterwarnings("ignore:no better than the dummy"),
    pytest.mark.filterwarnings("ignore:with 2 subjects in the test folds"),
]

RNG = np.random.default_rng(0)
GROUPS = np.repeat([f"S{i}" for i in range(8)], 8)
X = RNG.normal(size=(64, 3, 40)).astype(np.float32)
Y = (X[:, 0].std(axis=1) + 0.1 * RNG.normal(size=64)).astype(np.float32)
LABELS = np.where(np.median(Y) < Y, "slow", "fast")
CODES = (LABELS == "slow").astype(int)
CV = GroupKFold(4)


def flatten(X):
    return np.asarray(X).std(axis=2)


def linear(estimator):
    return make_pipeline(FunctionTransformer(flatten), estimator)


def make_net(kind=EEGRegressor, max_epochs=2, **options):
    return kind(
        "FastEEGNet",
        max_epochs=max_epochs,
        batch_size=8,
        verbose=0,
        **({"train_split": None, "optimizer": SAM} | options),
        **({"classes": [0, 1]} if kind is EEGClassifier else {}),
    )


LOGISTIC = {"logistic": linear(LogisticRegression())}
RIDGES = {"ridge": linear(Ridge()), "strong": linear(Ridge(100.0))}


def quietly(*args, **options):
    return compare(*args, **({"verbose": 0, "cv": CV, "n_seeds": 1} | options))


# Fits and scores


def test_predictions_and_scores_are_those_of_cross_validate():
    result = quietly(RIDGES, X, Y, GROUPS)
    for name, estimator in RIDGES.items():
        expected = cross_val_predict(estimator, X, Y, groups=GROUPS, cv=CV)
        np.testing.assert_allclose(result.y_pred[name][0, :, 0], expected, rtol=1e-6)
        by_hand = cross_validate(estimator, X, Y, groups=GROUPS, cv=CV, scoring=SCORING)
        by_fold = result.scores("fold").query("estimator == @name")
        assert by_fold["fold"].tolist() == [1, 2, 3, 4]
        for metric in SCORING:
            np.testing.assert_allclose(
                by_fold[metric], by_hand[f"test_{metric}"], rtol=1e-5
            )
        pooled = result.to_frame().loc[name]
        assert pooled["r2"] == pytest.approx(r2_score(Y, expected), rel=1e-4)
        assert pooled["r2_folds"] == pytest.approx(by_fold["r2"].mean())
        assert pooled["loss"] == pytest.approx(
            np.mean((Y - expected) ** 2) / Y.var(), rel=1e-5
        )


def test_paired_differences_are_those_of_the_predictions():
    result = quietly(RIDGES, X, Y, GROUPS)
    expected = paired_comparison(
        result.y_pred["strong"][0], result.y_pred["ridge"][0], Y, GROUPS, alpha=0.025
    )
    found = result.paired["strong"]
    assert (found.difference, found.p_value) == (expected.difference, expected.p_value)
    assert found.smallest_detectable == expected.smallest_detectable
    table = result.comparisons()
    assert table.index.tolist() == ["strong", "dummy"]
    p = table["p_value"]
    assert table["p_holm"].min() == pytest.approx(min(2 * p.min(), 1))
    assert (table["p_holm"] >= p).all()


@pytest.mark.parametrize("kind", ["strings", "numbers"])
def test_classifiers_are_compared_by_probabilities(kind):
    y = LABELS if kind == "strings" else CODES + 1
    pipeline = linear(LogisticRegression())
    result = quietly({"logistic": pipeline}, X, y, GROUPS)
    expected = cross_val_predict(
        pipeline, X, y, groups=GROUPS, cv=CV, method="predict_proba"
    )
    np.testing.assert_allclose(result.y_pred["logistic"][0], expected, rtol=1e-5)
    assert result.classes.tolist() == np.unique(y).tolist()
    by_hand = cross_validate(
        pipeline, X, y, groups=GROUPS, cv=CV, scoring=SCORING_CLASSIFICATION
    )
    by_fold = result.scores("fold").query("estimator == 'logistic'")
    for metric in SCORING_CLASSIFICATION:
        np.testing.assert_allclose(
            by_fold[metric], by_hand[f"test_{metric}"], rtol=1e-5
        )
    assert result.loss_name == "log_loss"


def test_a_class_that_a_training_fold_lacks_keeps_its_column():
    y = np.where(GROUPS == "S0", "rare", LABELS)
    result = quietly({"logistic": linear(LogisticRegression())}, X, y, GROUPS)
    assert result.classes.tolist() == ["fast", "rare", "slow"]
    assert (result.y_pred["logistic"][0, GROUPS == "S0", 1] == 0).all()
    np.testing.assert_allclose(result.y_pred["logistic"].sum(axis=2), 1, rtol=1e-5)


def test_several_targets():
    y = np.stack([Y, X[:, 1].std(axis=1)], axis=1)
    result = quietly(RIDGES, X, y, GROUPS)
    expected = cross_val_predict(RIDGES["ridge"], X, y, groups=GROUPS, cv=CV)
    np.testing.assert_allclose(result.y_pred["ridge"][0], expected, rtol=1e-5)


# Seeds


def test_the_same_settings_get_the_same_fits():
    result = quietly({"a": make_net(), "b": make_net()}, X, Y, GROUPS, n_seeds=2)
    np.testing.assert_array_equal(result.y_pred["a"], result.y_pred["b"])
    first, second = result.y_pred["a"]
    assert not np.array_equal(first, second)
    assert result.paired["b"].difference == 0
    assert result.y_pred["dummy"].shape == (1, 64, 1)


def test_a_net_gets_a_seed_or_its_seed_is_set():
    own = make_net(callbacks=[SeedCallback(7, n_threads=1)])
    result = quietly({"plain": make_net(), "own": own}, X, Y, GROUPS, random_state=3)
    np.testing.assert_array_equal(result.y_pred["plain"], result.y_pred["own"])
    by_hand = make_net(callbacks=[("seed", SeedCallback(3, n_threads=1))])
    train, test = next(CV.split(X, Y, GROUPS))
    by_hand.fit(X[train], Y[train])
    np.testing.assert_array_equal(
        result.y_pred["own"][0, test], by_hand.predict(X[test]).astype(np.float32)
    )
    assert own.callbacks[0].random_state == 7


def test_any_random_state_is_set_and_what_has_none_is_fitted_once():
    forest = linear(RandomForestRegressor(3, random_state=9))
    both = {"forest": forest, "line": linear(LinearRegression())}
    result = quietly(both, X, Y, GROUPS, n_seeds=2)
    assert len(result.y_pred["forest"]) == 2
    assert len(result.y_pred["line"]) == 1
    expected = clone(forest).set_params(randomforestregressor__random_state=1)
    train, test = next(CV.split(X, Y, GROUPS))
    np.testing.assert_allclose(
        result.y_pred["forest"][1, test, 0],
        expected.fit(X[train], Y[train]).predict(X[test]),
        rtol=1e-6,
    )


def test_predictions_are_the_same_in_workers():
    nets = {"net": make_net(max_epochs=1)}
    alone = quietly(nets, X, Y, GROUPS)
    together = quietly(nets, X, Y, GROUPS, n_jobs=2)
    np.testing.assert_array_equal(alone.y_pred["net"], together.y_pred["net"])


# By epoch


def test_every_epoch_is_predicted_and_none_is_chosen():
    nets = {"net": make_net(max_epochs=3), "ridge": RIDGES["ridge"]}
    result = quietly(nets, X, Y, GROUPS, by_epoch=True)
    without = quietly(nets, X, Y, GROUPS)
    np.testing.assert_array_equal(result.y_pred["net"], without.y_pred["net"])
    curve = result.y_pred_by_epoch["net"]
    assert curve.shape == (1, 3, 64, 1)
    np.testing.assert_array_equal(curve[:, -1], result.y_pred["net"])
    shorter = quietly({"net": make_net(max_epochs=2)}, X, Y, GROUPS)
    np.testing.assert_array_equal(curve[:, 1], shorter.y_pred["net"])
    assert list(result.y_pred_by_epoch) == ["net"]
    table = result.by_epoch()
    assert table["epoch"].tolist() == [1, 2, 3]
    assert table["loss"].iloc[-1] == pytest.approx(result.to_frame().loc["net", "loss"])
    assert result.plot_by_epoch().axes[0].get_ylabel().startswith("normalized squared")
    with pytest.raises(ValueError, match=r"call compare.*by_epoch=True"):
        without.by_epoch()


@pytest.mark.parametrize("around", ["target", "pipeline", "search"])
def test_predictions_by_epoch_pass_through_what_is_around_the_net(around):
    y = 100 + 10 * Y
    net = make_net()
    if around == "target":
        estimator = TransformedTargetRegressor(net, transformer=StandardScaler())
    elif around == "pipeline":
        estimator = make_pipeline(FunctionTransformer(np.negative), net)
    else:
        estimator = GridSearchCV(net, {"lr": [0.01]}, cv=2)
    result = quietly({"net": estimator}, X, y, GROUPS, by_epoch=True)
    np.testing.assert_array_equal(
        result.y_pred_by_epoch["net"][:, -1], result.y_pred["net"]
    )


def test_early_stopping_and_the_shortest_training():
    stopping = make_net(
        max_epochs=6,
        train_split=SubjectSplit(0.3),
        callbacks=[EarlyStopping(patience=1, load_best=True)],
    )
    windows = SubjectWindows(X, GROUPS)
    result = quietly({"net": stopping}, windows, Y, GROUPS, by_epoch=True)
    n_epochs = result.fits.query("estimator == 'net'")["n_epochs"]
    assert result.y_pred_by_epoch["net"].shape[1] == n_epochs.min()


# Folders


def contents(folder):
    return {p: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_finished_fit_is_not_run_again(tmp_path, capsys):
    nets = {"a net": make_net(max_epochs=1)}
    options = {"folder": tmp_path / "fits", "verbose": 1}
    first = quietly(nets, X, Y, GROUPS, **options)
    assert "8 fits, 1 in parallel" in capsys.readouterr().out
    before = contents(tmp_path)
    next(tmp_path.rglob("a-net-*/*fold_2.npz")).unlink()
    second = quietly(nets, X, Y, GROUPS, **options)
    assert "8 fits, 7 of them found" in capsys.readouterr().out
    np.testing.assert_array_equal(first.y_pred["a net"], second.y_pred["a net"])
    unchanged = contents(tmp_path)
    assert unchanged.keys() == before.keys()
    more = quietly({**nets, **RIDGES}, X, Y, GROUPS, **(options | {"n_seeds": 2}))
    assert "28 fits, 8 of them found" in capsys.readouterr().out
    np.testing.assert_array_equal(more.y_pred["a net"][:1], first.y_pred["a net"])
    assert (
        contents(tmp_path).items()
        >= {p: c for p, c in unchanged.items() if p.suffix == ".npz"}.items()
    )
    curves = quietly(nets, X, Y, GROUPS, by_epoch=True, **options)
    assert "8 fits, 4 of them found" in capsys.readouterr().out
    np.testing.assert_array_equal(curves.y_pred["a net"], first.y_pred["a net"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": -Y}, "belongs to another comparison .y was .*, is "),
        ({"X": X + 1}, "another comparison .X was"),
        ({"groups": GROUPS[::-1]}, "another comparison .groups was"),
        ({"cv": GroupKFold(3)}, "another comparison .folds was"),
        ({"estimators": {"ridge": linear(Ridge(2.0))}},
         r"ridge: ridge__alpha was 1\.0, is 2\.0"),
        ({"estimators": {"ridge": Ridge()}}, "ridge: class was sklearn.*Pipeline, is"),
    ],
)  # fmt: skip
def test_a_folder_of_something_else_is_refused(tmp_path, change, message):
    given = {"estimators": RIDGES, "X": X, "y": Y, "groups": GROUPS, "folder": tmp_path}
    quietly(**given)
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=message):
        quietly(**(given | change))
    assert contents(tmp_path) == before


def test_callbacks_without_a_name_belong_to_the_settings(tmp_path):
    def nets(*callbacks):
        return {"net": make_net(max_epochs=1, callbacks=list(callbacks))}

    options = {"folder": tmp_path}
    quietly(nets(LRScheduler(StepLR, step_size=1)), X, Y, GROUPS, **options)
    quietly(nets(LRScheduler(StepLR, step_size=1)), X, Y, GROUPS, **options)
    for other in (LRScheduler(StepLR, step_size=2), LRScheduler(ExponentialLR)):
        with pytest.raises(ValueError, match=r"net: callbacks was .*LRScheduler"):
            quietly(nets(other), X, Y, GROUPS, **options)


def test_splits_may_be_masks():
    masks = [(s != GROUPS, s == GROUPS) for s in ("S0", "S1")]
    found = quietly(RIDGES, X, Y, GROUPS, cv=masks)
    rows = [(np.flatnonzero(a), np.flatnonzero(b)) for a, b in masks]
    expected = quietly(RIDGES, X, Y, GROUPS, cv=rows)
    np.testing.assert_array_equal(found.y_pred["ridge"], expected.y_pred["ridge"])
    assert found.subjects.tolist() == ["S0", "S1"]
    assert np.isnan(found.y_pred["ridge"][0, 16:]).all()
    assert found.comparisons().equals(expected.comparisons())


def test_a_folder_with_other_files_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"must be new, empty or .*thesis"):
        quietly(RIDGES, X, Y, GROUPS, folder=tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "mine"


SCRIPT = """
import sys, warnings
warnings.simplefilter("ignore")
from tests.comparison.test_compare import *
net = make_net(max_epochs=int(sys.argv[2]))
compare({"net": net}, X, Y, GROUPS, cv=CV, n_seeds=2, folder=sys.argv[1], n_jobs=2)
"""


@pytest.mark.slow
def test_a_killed_run_continues_bit_for_bit(tmp_path):
    n_epochs = 8
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT, tmp_path, str(n_epochs)]
    process = subprocess.Popen(
        command, cwd=Path(__file__).parents[2], start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while len(list(tmp_path.glob("net-*/*.npz"))) < 2:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    kept = contents(tmp_path)
    assert 2 <= len(list(tmp_path.glob("net-*/*.npz"))) < 8
    nets = {"net": make_net(max_epochs=n_epochs)}
    resumed = quietly(nets, X, Y, GROUPS, folder=tmp_path, n_seeds=2)
    whole = quietly(nets, X, Y, GROUPS, n_seeds=2)
    np.testing.assert_array_equal(resumed.y_pred["net"], whole.y_pred["net"])
    complete = {p: c for p, c in kept.items() if p.suffix == ".npz"}
    assert contents(tmp_path).items() >= complete.items()


# Results


def test_recordings_pool_windows():
    recordings = np.array([f"{g}-{i % 2}" for i, g in enumerate(GROUPS)])
    y = np.where([r.endswith("0") for r in recordings], "rest", "task")
    result = quietly(
        {"net": make_net(EEGClassifier, max_epochs=1)}, X, (y == "task").astype(int),
        GROUPS, by_epoch=True,
    )  # fmt: skip
    pooled = result.by_recording(recordings)
    names = np.unique(recordings)
    expected = [
        result.y_pred["net"][0, recordings == name].mean(axis=0) for name in names
    ]
    np.testing.assert_allclose(pooled.y_pred["net"][0], expected, rtol=1e-5)
    assert pooled.y.tolist() == [int(name.endswith("1")) for name in names]
    assert pooled.subjects.tolist() == result.subjects.tolist()
    assert pooled.scores("fold")["fold"].max() == 4
    assert pooled.y_pred_by_epoch["net"].shape == (1, 1, 16, 2)
    for wrong, what in ((GROUPS, "target"), (np.tile(recordings[:8], 8), "subject")):
        with pytest.raises(ValueError, match=f"the {what} of 'S0.*' varies"):
            result.by_recording(wrong)


def test_the_report_is_one_page_that_says_it_all(tmp_path):
    result = quietly({"a<b": RIDGES["ridge"], "strong": RIDGES["strong"]}, X, Y, GROUPS)
    result.report(tmp_path / "report.html", title="Ridges")
    page = (tmp_path / "report.html").read_text()
    assert not re.findall(r'(?:src|href)="https?://(?!mne\.tools)', page)
    for wanted in ("a&lt;b", "strong", "S7", "p_holm", "neg_nrmse_range", "torch",
                   "ridge__alpha", "Holm correction", "CPU time"):  # fmt: skip
        assert wanted in page
    assert "<td>a<b" not in page
    figure = result.plot()
    assert len(figure.axes[0].lines) == 8 + 2  # subjects, their mean, the dummy
    text = figure.axes[1].get_xlabel()
    assert text == "normalized squared error, difference to a<b"


def test_many_estimators_leave_the_lines_out():
    many = {f"ridge {i}": linear(Ridge(i + 1.0)) for i in range(8)}
    with pytest.warns(UserWarning, match=r"8 subjects .* and 8 comparisons"):
        result = quietly(many, X, Y, GROUPS)
    assert len(result.plot().axes) == 1
    assert np.isinf(result.comparisons()["smallest_detectable"]).all()
    assert (
        "With so few subjects and 8 comparisons, no difference" in result.sentences()[0]
    )


def test_sentences_tell_no_difference_from_too_little_data():
    result = quietly({**RIDGES, "same": RIDGES["ridge"]}, X, Y, GROUPS)
    strong, same = result.sentences()
    assert "The difference is significant (p = 0.023 after Holm" in strong
    assert "0 of 8 subjects" in strong
    assert "not significant (p = 1 after Holm correction)" in same
    assert "with a probability of 0.8" in same


def test_a_comparison_can_be_pickled_and_does_not_change():
    result = quietly(RIDGES, X, Y, GROUPS)
    again = pickle.loads(pickle.dumps(result))
    assert again.to_frame().equals(result.to_frame())
    with pytest.raises(AttributeError):
        result.y = Y


# Warnings


class Opposite(Ridge):
    def predict(self, X):
        return -super().predict(X)


@pytest.mark.filterwarnings("ignore:The groups parameter is ignored by KFold")
@pytest.mark.parametrize(
    ("estimators", "options", "message"),
    [
        (RIDGES, {"cv": KFold(4, shuffle=True, random_state=0)},
         "fold 1 trains and tests on .* of the same subjects, such as 'S.'"),
        ({"wrong": linear(Opposite())}, {}, "no better than the dummy .*: wrong"),
        (RIDGES, {"groups": np.repeat(["a", "b", "c", "d"], 16)},
         "4 subjects in the test folds and 2 comparisons no corrected .* below 0.25"),
    ],
)  # fmt: skip
def test_warnings(estimators, options, message):
    given = {"estimators": estimators, "X": X, "y": Y, "groups": GROUPS} | options
    with pytest.warns(UserWarning, match=message):
        quietly(**given)


class Diverging(Ridge):
    def predict(self, X):
        return np.full(len(X), np.nan)


def test_predictions_that_are_not_finite_are_named():
    with pytest.warns(UserWarning, match="the predictions of 16 windows") as caught:
        result = quietly({**RIDGES, "bad": linear(Diverging())}, X, Y, GROUPS)
    assert "bad, seed 0, fold 1: the predictions of 16 windows" in str(
        caught[0].message
    )
    assert np.isnan(result.comparisons().loc["bad", "p_value"])
    assert np.isnan(result.to_frame().loc["bad", "r2"])
    assert np.isfinite(result.comparisons().loc["strong", "p_holm"])


# Errors


class Failing(Ridge):
    def fit(self, X, y):
        raise RuntimeError("out of luck")


class Odds(LogisticRegression):
    def predict_proba(self, X):
        return 2 * super().predict_proba(X)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"groups": np.zeros(64)}, ValueError, r"at least 2 subjects in groups, got 1"),
        ({"groups": None}, TypeError, "groups must have a length, got None|groups"),
        ({"groups": GROUPS[1:]}, ValueError, "X: 64, y: 64, groups: 63"),
        ({"estimators": {}}, TypeError, "estimators must be a dict"),
        ({"estimators": [Ridge()]}, TypeError, "estimators must be a dict"),
        ({"estimators": {1: Ridge()}}, TypeError, "names of estimators .* got 1"),
        ({"estimators": {"a": StandardScaler()}}, TypeError, "must be regressors or"),
        ({"estimators": {"a": Ridge}}, TypeError, "got estimator class instead"),
        ({"estimators": RIDGES | LOGISTIC}, ValueError,
         "'ridge' is a regressor and 'logistic' is not"),
        ({"estimators": {"dummy": Ridge()}}, ValueError, "'dummy' is reserved for the"),
        ({"estimators": {"m": DummyRegressor()}}, ValueError, "must not be a dummy"),
        ({"estimators": {"svm": linear(LinearSVC())}, "y": LABELS}, ValueError,
         r"'svm' \(Pipeline\) has no predict_proba; .*CalibratedClassifierCV"),
        ({"estimators": {"odds": linear(Odds())}, "y": LABELS}, ValueError,
         "must return probabilities, which sum to 1"),
        ({"y": np.where(Y > 1, np.nan, Y)}, ValueError, r"y must be finite, got \[nan"),
        ({"y": np.zeros(64)}, ValueError, "y is constant"),
        ({"estimators": LOGISTIC, "y": [*LABELS[1:], None]}, ValueError,
         "y must name a label for every window, got None for window 63"),
        ({"n_seeds": 0}, ValueError, "n_seeds must be an integer >= 1, got 0"),
        ({"cv": 9}, ValueError, "cv must be at most the number of subjects, 8, got 9"),
        ({"cv": 1}, ValueError, "cv must be an integer >= 2, got 1"),
        ({"cv": [(np.arange(9), np.arange(9, 18))] * 2}, ValueError,
         "window 9 in test folds 1 and 2"),
        ({"params": {"rigde": {}}}, ValueError, r"one of 'ridge'.*'rigde'"),
        ({"loss": "log_loss"}, ValueError, "each of the 64 labels"),
        ({"estimators": {"net": make_net(callbacks="disable")}}, ValueError,
         "must be a list or None, so that a SeedCallback can be added, got 'disable'"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_named(change, error, message):
    given = {"estimators": RIDGES, "X": X, "y": Y, "groups": GROUPS} | change
    with pytest.raises(error, match=message):
        quietly(**given)


def test_an_error_in_a_fit_tells_which():
    with pytest.raises(RuntimeError, match="out of luck") as caught:
        quietly({"bad": linear(Failing())}, X, Y, GROUPS)
    assert caught.value.__notes__ == ["Raised in the fit of bad, seed 0, fold 1."]


def test_parameters_of_fit_reach_one_estimator():
    grid = GridSearchCV(
        linear(Ridge()), {"ridge__alpha": [0.1, 10.0]}, cv=GroupKFold(3)
    )
    params = {"grid": {"groups": GROUPS}}
    result = quietly({"grid": grid, **RIDGES}, X, Y, GROUPS, params=params)
    expected = cross_val_predict(
        grid, X, Y, groups=GROUPS, cv=CV, params={"groups": GROUPS}
    )
    np.testing.assert_allclose(result.y_pred["grid"][0, :, 0], expected, rtol=1e-6)


def test_a_dummy_of_ones_own_is_the_dummy_if_it_knows_the_shares():
    shares = {"shares": DummyClassifier(strategy="prior")}
    result = quietly({**LOGISTIC, **shares}, X, LABELS, GROUPS)
    assert result.estimators == ["logistic", "shares"]
    assert result.dummy == "shares"
    guess = {"guess": DummyClassifier(strategy="most_frequent")}
    result = quietly({**LOGISTIC, **guess}, X, LABELS, GROUPS)
    assert result.estimators == ["logistic", "guess", "dummy"]
    assert result.dummy == "dummy"


# Regression tests


def test_functions_of_the_same_name_are_told_apart(tmp_path):
    for factor in (1, 0):
        scale = FunctionTransformer(lambda X, f=factor: X * f)
        estimators = {"ridge": make_pipeline(scale, *linear(Ridge()))}
        if factor:
            quietly(estimators, X, Y, GROUPS, folder=tmp_path)
        else:
            with pytest.raises(ValueError, match=r"ridge: .*func was .*lambda"):
                quietly(estimators, X, Y, GROUPS, folder=tmp_path)


@pytest.mark.parametrize(
    "name", ["..", ".", "a/b", "x" * 300, "脑" * 99, "comparison.json"]
)
def test_names_are_no_paths(name, tmp_path):
    estimators = {name: RIDGES["ridge"], "other": RIDGES["strong"]}
    found = [
        quietly(estimators, X, Y, GROUPS, folder=tmp_path / "inner") for _ in range(2)
    ]
    np.testing.assert_array_equal(*(f.y_pred[name] for f in found))
    assert [p.name for p in tmp_path.iterdir()] == ["inner"]
    assert len(list((tmp_path / "inner").glob("*/*.npz"))) == 3 * 4


def test_a_fit_of_another_comparison_is_not_taken(tmp_path):
    quietly(RIDGES, X, Y, GROUPS, folder=tmp_path / "a")
    quietly(RIDGES, X, -Y, GROUPS, folder=tmp_path / "b")
    (foreign,) = (tmp_path / "b").glob("ridge-*/seed_0_fold_0.npz")
    (own,) = (tmp_path / "a").glob("ridge-*/seed_0_fold_0.npz")
    own.write_bytes(foreign.read_bytes())
    with pytest.raises(ValueError, match=r"fold_0.npz' is a fit of other data"):
        quietly(RIDGES, X, Y, GROUPS, folder=tmp_path / "a")
    own.write_bytes(foreign.read_bytes()[:-30])
    with pytest.raises(ValueError, match=r"fold_0.npz' is not a complete fit"):
        quietly(RIDGES, X, Y, GROUPS, folder=tmp_path / "a")
    (tmp_path / "a" / "comparison.json").write_text("{")
    with pytest.raises(ValueError, match=r"comparison.json' cannot be read"):
        quietly(RIDGES, X, Y, GROUPS, folder=tmp_path / "a")


def test_the_same_data_in_another_form_are_the_same(tmp_path):
    options = {"folder": tmp_path, "cv": np.int64(4)}
    first = quietly(RIDGES, X, Y, GROUPS, **options)
    for form in (np.asfortranarray(X), X[::-1][::-1], SubjectWindows(X, GROUPS)):
        again = quietly(RIDGES, form, pd.Series(Y), list(GROUPS), **options)
        np.testing.assert_array_equal(first.y_pred["ridge"], again.y_pred["ridge"])
    assert quietly(RIDGES, list(X), Y.astype(object), GROUPS).loss_name == "nmse"


def test_values_keep_their_digits():
    shifted = quietly(RIDGES, X, Y.astype(float) + 1e9, GROUPS)
    plain = quietly(RIDGES, X, Y.astype(float), GROUPS)
    # The dummy, since Ridge computes in the precision of X.
    found, expected = (r.to_frame().loc["dummy", "loss"] for r in (shifted, plain))
    assert found == pytest.approx(expected)


def test_seeds_have_their_numbers():
    nets = {"net": make_net(max_epochs=1)}
    result = quietly(nets, X, Y, GROUPS, n_seeds=2, random_state=100)
    scores = result.scores().query("estimator == 'net'")
    assert scores["seed"].tolist() == [100, 101]
    assert set(result.fits["seed"]) == {100, 101}


def test_tables_cannot_be_changed_from_outside():
    result = quietly(RIDGES, X, Y, GROUPS)
    before = result.comparisons()
    losses = result.subject_losses
    losses *= 2
    assert result.comparisons().equals(before)


def test_a_module_that_is_made_already_is_warned_of():
    net = NeuralNetRegressor(
        torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(120, 1)),
        max_epochs=1, train_split=None, verbose=0,
    )  # fmt: skip
    with pytest.warns(UserWarning, match="'net' is an instance, so all seeds have"):
        quietly({"net": net}, X, Y[:, None], GROUPS)


def shares_a_file(callback):
    return make_net(train_split=SubjectSplit(0.3), callbacks=[callback])


def calibrated():
    return CalibratedClassifierCV(make_net(EEGClassifier, max_epochs=1), cv=2)


class Wide(Ridge):
    def predict(self, X):
        return np.stack([super().predict(X)] * 3, axis=1)


def both_nets():
    return VotingRegressor([("a", make_net()), ("b", make_net())])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"estimators": {"net": shares_a_file(Checkpoint(load_best=True))}},
         "'net' must not have the callback Checkpoint, which loads weights from"),
        ({"estimators": {"both": both_nets()}, "by_epoch": True},
         "by_epoch needs estimators with a single net, but 'both' has 2"),
        ({"estimators": {"calibrated": calibrated()}, "y": CODES, "by_epoch": True},
         "predict with a single net, got CalibratedClassifierCV with 0"),
        ({"estimators": {"n": make_net(EEGClassifier, module__n_outputs=3)},
          "y": CODES},
         "must return a probability for each of its classes"),
        ({"estimators": {"three": linear(Wide())}},
         "must predict 1 columns, as in y, got 3"),
        ({"cv": [(np.arange(32), np.arange(-32, 0))]}, "windows from 0 to 63"),
        ({"cv": [(np.arange(32), np.arange(0))]}, "at least one on each side"),
        ({"scoring": {"loss": "r2"}}, "must not name a scorer 'loss'"),
        ({"loss": "mse"}, "loss must be one of 'nmse'"),
        ({"loss": lambda y, p: 0.0}, r"loss must return an array of shape \(64,\)"),
        ({"scoring": "roc_auc"}, "roc_auc|predict_proba|multi"),
        ({"scoring": r2_score}, "looks like it is a metric function"),
        ({"estimators": LOGISTIC, "y": np.eye(2)[CODES]},
         r"one label for each window, .* got the shape \(64, 2\)"),
        ({"cv": (np.arange(32), np.arange(32, 64))}, r"cv must be .*, got the item"),
        ({"estimators": {"search": GridSearchCV(
            make_pipeline(make_net()), {"braindecodenet": [make_net()]})}},
         "'search' must not hold nets in 'param_grid', where they get no seed"),
        ({"estimators": {"search": GridSearchCV(
            make_net(), {"callbacks": [None, [SeedCallback(1)]]})}},
         "must not search over 'callbacks' in 'param_grid', which would replace"),
    ],
)  # fmt: skip
def test_what_would_be_wrong_is_refused(change, message):
    given = {"estimators": RIDGES, "X": X, "y": Y, "groups": GROUPS} | change
    with pytest.raises((ValueError, AttributeError), match=message):
        quietly(**given)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"X": mne.EpochsArray(np.zeros((2, 1, 9)), mne.create_info(1, 9.0, "eeg"))},
         r"X must not be mne.Epochs, which hold volts, got <EpochsArray"),
        ({"groups": None}, "groups must name the subject of each window, got None"),
        ({"cv": "loo"}, "cv must be an integer, a splitter .*, got 'loo'"),
        ({"cv": GroupKFold}, "cv must be an integer, .*, got <class .*GroupKFold"),
        ({"cv": 3.0}, r"cv must be an integer, .*, got 3\.0"),
        ({"scoring": 3}, "scoring must be the name of a scorer, .* got 3"),
        ({"scoring": ["r2", make_scorer(r2_score)]}, r"scoring must be .* got \['r2'"),
        ({"n_jobs": "2"}, "n_jobs must be an integer or None, got '2'"),
    ],
)  # fmt: skip
def test_first_mistakes_are_named(change, message):
    given = {"estimators": RIDGES, "X": X, "y": Y, "groups": GROUPS} | change
    with pytest.raises(TypeError, match=message):
        quietly(**given)


def as_column(y):
    return y[:, None]


def as_table(y):
    return pd.DataFrame({"label": y})


def as_objects(y):
    return y.astype(object)


@pytest.mark.parametrize("container", [as_column, as_table, as_objects])
@pytest.mark.parametrize("y", [CODES + 1, LABELS], ids=["numbers", "text"])
def test_labels_in_other_containers(container, y):
    expected = quietly(LOGISTIC, X, y, GROUPS)
    found = quietly(LOGISTIC, X, container(y), GROUPS)
    assert found.classes.tolist() == expected.classes.tolist()
    assert found.classes.dtype == expected.classes.dtype
    pd.testing.assert_frame_equal(
        found.to_frame().drop(columns="cpu_seconds"),
        expected.to_frame().drop(columns="cpu_seconds"),
    )


def test_a_folder_belongs_to_the_subjects_of_the_windows(tmp_path):
    other = np.array([name.replace("S1", "S0") for name in GROUPS])
    quietly(RIDGES, SubjectWindows(X, GROUPS), Y, GROUPS, folder=tmp_path)
    quietly(RIDGES, SubjectWindows(X, GROUPS), Y, GROUPS, folder=tmp_path)
    with pytest.raises(ValueError, match="groups of X was not set, is shape"):
        quietly(RIDGES, SubjectWindows(X, other), Y, GROUPS, folder=tmp_path)


def test_subjects_of_windows_that_contradict_groups_are_warned_of():
    with pytest.warns(UserWarning, match="8 subjects in X and the 8 in groups overlap"):
        quietly(RIDGES, SubjectWindows(X, np.roll(GROUPS, 1)), Y, GROUPS)


def test_frozen_estimators_are_compared():
    fitted = clone(RIDGES["ridge"]).fit(X, Y)
    result = quietly({"frozen": FrozenEstimator(fitted)}, X, Y, GROUPS)
    np.testing.assert_allclose(
        result.y_pred["frozen"][0, :, 0], fitted.predict(X), rtol=1e-5
    )


def test_a_scorer_that_fails_is_named():
    with pytest.raises(ValueError, match="pos_label") as caught:
        quietly(LOGISTIC, X, LABELS, GROUPS, scoring=["accuracy", "f1"])
    assert caught.value.__notes__ == ["Raised by the scorer 'f1'."]


def test_scorers_that_return_dicts_are_refused():
    with pytest.raises(TypeError, match=r"scorer 'score' must return a number, got"):
        quietly(RIDGES, X, Y, GROUPS, scoring=lambda e, X, y: {"a": 1.0})


def test_threads_are_refused_for_nets():
    with (
        joblib.parallel_config("threading"),
        pytest.raises(ValueError, match="got joblib's threading"),
    ):
        quietly({"net": make_net()}, X, Y, GROUPS, n_jobs=2)


def test_names_with_formulas_are_drawn(tmp_path):
    names = {r"lr=$\eta_0$ & $\foo$": RIDGES["ridge"], "_m" * 30: RIDGES["strong"]}
    result = quietly(names, X, Y, GROUPS)
    result.plot().savefig(tmp_path / "f.png")
    with pytest.raises(ValueError, match=r"path must end in .html, got 'x.txt'"):
        result.report("x.txt")
