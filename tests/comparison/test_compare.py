"""compare, checked against single fits with scikit-learn."""

import json
import pickle
import random
import re

import joblib
import matplotlib.pyplot as plt
import mne
import numpy as np
import pandas as pd
import pytest
import torch
from braindecode import EEGClassifier, EEGRegressor
from braindecode.augmentation import (
    AugmentedDataLoader,
    ChannelsDropout,
    GaussianNoise,
)
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import TransformedTargetRegressor
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.ensemble import RandomForestRegressor, VotingClassifier, VotingRegressor
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
from skorch.callbacks import Checkpoint, EarlyStopping, LRScheduler
from torch.optim.lr_scheduler import ExponentialLR, StepLR

from braindecode_sam import SAM, SCORING, SCORING_CLASSIFICATION
from braindecode_sam.callbacks import ResumableCheckpoint
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


class Tiny(torch.nn.Module):
    """Trains quickly, with what makes epochs and seeds differ."""

    def __init__(self, n_chans, n_times, n_outputs):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.BatchNorm1d(n_chans),
            torch.nn.Flatten(),
            torch.nn.Dropout(0.2),
            torch.nn.Linear(n_chans * n_times, n_outputs),
        )

    def forward(self, x):
        return self.layers(x)


def make_net(kind=EEGRegressor, max_epochs=2, **options):
    return kind(
        Tiny,
        max_epochs=max_epochs,
        batch_size=16,
        verbose=0,
        **({"train_split": None, "optimizer": SAM} | options),
        **({"classes": [0, 1]} if kind is EEGClassifier else {}),
    )


LOGISTIC = {"logistic": linear(LogisticRegression())}
RIDGES = {"ridge": linear(Ridge()), "strong": linear(Ridge(100.0))}


def close(found, expected, rtol=1e-5):
    np.testing.assert_allclose(found, expected, rtol=rtol)


def quietly(*args, **options):
    return compare(*args, **({"verbose": 0, "cv": CV, "n_seeds": 1} | options))


# Fits and scores


def test_predictions_and_scores_are_those_of_cross_validate():
    result = quietly(RIDGES, X, Y, GROUPS)
    for name, estimator in RIDGES.items():
        expected = cross_val_predict(estimator, X, Y, groups=GROUPS, cv=CV)
        close(result.y_pred[name][0, :, 0], expected, rtol=1e-6)
        by_hand = cross_validate(estimator, X, Y, groups=GROUPS, cv=CV, scoring=SCORING)
        by_fold = result.scores("fold").query("estimator == @name")
        assert by_fold["fold"].tolist() == [1, 2, 3, 4]
        for metric in SCORING:
            close(by_fold[metric], by_hand[f"test_{metric}"])
        pooled = result.to_frame().loc[name]
        assert pooled["r2"] == pytest.approx(r2_score(Y, expected), rel=1e-4)
        assert pooled["r2_folds"] == pytest.approx(by_fold["r2"].mean())
        close(pooled["loss"], np.mean((Y - expected) ** 2) / Y.var())


def test_paired_differences_are_those_of_the_predictions():
    result = quietly(RIDGES, X, Y, GROUPS)
    expected = paired_comparison(
        result.y_pred["strong"][0], result.y_pred["ridge"][0], Y, GROUPS, alpha=0.025
    )
    found = result.paired["strong"]
    assert (found.difference, found.p_value) == (expected.difference, expected.p_value)
    assert found.smallest_detectable == expected.smallest_detectable
    assert result.comparisons().index.tolist() == ["strong", "dummy"]


def test_classifiers_are_compared_by_probabilities():
    net, options = LOGISTIC["logistic"], {"groups": GROUPS, "cv": CV}
    result = quietly(LOGISTIC, X, LABELS, GROUPS)
    expected = cross_val_predict(net, X, LABELS, method="predict_proba", **options)
    close(result.y_pred["logistic"][0], expected)
    assert result.classes.tolist() == ["fast", "slow"]
    by_hand = cross_validate(net, X, LABELS, scoring=SCORING_CLASSIFICATION, **options)
    by_fold = result.scores("fold").query("estimator == 'logistic'")
    for metric in SCORING_CLASSIFICATION:
        close(by_fold[metric], by_hand[f"test_{metric}"])
    assert result.loss_name == "log_loss"


def test_a_class_that_a_training_fold_lacks_keeps_its_column():
    y = np.where(GROUPS == "S0", "rare", LABELS)
    result = quietly(LOGISTIC, X, y, GROUPS)
    assert result.classes.tolist() == ["fast", "rare", "slow"]
    assert (result.y_pred["logistic"][0, GROUPS == "S0", 1] == 0).all()
    close(result.y_pred["logistic"].sum(axis=2), 1)


def test_several_targets():
    y = np.stack([Y, X[:, 1].std(axis=1)], axis=1)
    result = quietly(RIDGES, X, y, GROUPS)
    expected = cross_val_predict(RIDGES["ridge"], X, y, groups=GROUPS, cv=CV)
    close(result.y_pred["ridge"][0], expected)


def test_scores_are_nan_where_they_are_undefined():
    y = np.where(GROUPS == "S0", 1.0, Y)
    scores = quietly(RIDGES, X, y, GROUPS).scores("subject")
    assert scores["neg_nrmse"].isna().equals(scores["subject"] == "S0")


# Seeds


def noisy_net(**options):
    """Draws from generators of its own, which workers get in another state."""
    noise = [GaussianNoise(1.0, std=0.5)]
    loader = {
        "iterator_train": AugmentedDataLoader,
        "iterator_train__transforms": noise,
    }
    return make_net(**(loader | options))


def state_of_all():
    drawn = np.random.get_state()[1:3]
    return torch.get_rng_state().tolist(), str(drawn), random.getstate()


def test_each_fit_gets_a_seed_that_does_not_depend_on_the_name():
    nets = {"a": make_net(), "b": make_net()}
    n_threads, before = torch.get_num_threads(), state_of_all()
    torch.set_num_threads(2)
    try:
        result = quietly(nets, X, Y, GROUPS, n_seeds=2, random_state=3)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(n_threads)
    assert state_of_all() == before
    np.testing.assert_array_equal(result.y_pred["a"], result.y_pred["b"])
    first, second = result.y_pred["a"]
    assert not np.array_equal(first, second)
    assert result.paired["b"].difference == 0
    assert result.y_pred["dummy"].shape == (1, 64, 1)
    scores = result.scores().query("estimator == 'a'")
    assert scores["seed"].tolist() == [3, 4]
    assert set(result.fits["seed"]) == {3, 4}
    by_hand = make_net()
    train, test = next(CV.split(X, Y, GROUPS))
    torch.manual_seed(3)
    by_hand.fit(X[train], Y[train])
    close(first[test], by_hand.predict(X[test]))


def test_nets_within_a_grid_get_seeds():
    steps = make_pipeline(FunctionTransformer(), Ridge())
    search = GridSearchCV(steps, {"ridge": [noisy_net()]}, cv=2)
    found = [quietly({"s": search}, X, Y, GROUPS, n_seeds=2) for _ in range(2)]
    first, again = (f.y_pred["s"] for f in found)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(*first)


def test_any_random_state_is_set_and_what_has_none_is_fitted_once():
    forest = linear(RandomForestRegressor(3, random_state=9))
    both = {"forest": forest, "line": linear(LinearRegression())}
    result = quietly(both, X, Y, GROUPS, n_seeds=2)
    assert len(result.y_pred["forest"]) == 2
    assert len(result.y_pred["line"]) == 1
    expected = clone(forest).set_params(randomforestregressor__random_state=1)
    train, test = next(CV.split(X, Y, GROUPS))
    expected = expected.fit(X[train], Y[train]).predict(X[test])
    close(result.y_pred["forest"][1, test, 0], expected, rtol=1e-6)


@pytest.mark.full
def test_predictions_are_the_same_in_workers():
    nets = {"net": noisy_net(max_epochs=1), "other": noisy_net(lr=0.1)}
    alone = quietly(nets, X, Y, GROUPS)
    np.random.rand(7)
    together = quietly(nets, X, Y, GROUPS, n_jobs=2)
    for name in nets:
        np.testing.assert_array_equal(alone.y_pred[name], together.y_pred[name])


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
    (ax,) = result.plot_by_epoch().axes
    assert ax.get_ylabel() == "normalized squared error\nof held-out subjects"
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == ["net", "dummy predictor"]
    assert ax.lines[0].get_ydata().tolist() == table["loss"].tolist()
    assert ax.lines[0].get_color() == "0.45"  # the reference
    assert len(ax.collections) == 1  # the interval
    plt.close("all")
    with pytest.raises(ValueError, match=r"call compare.*by_epoch=True"):
        without.by_epoch()


def test_predictions_by_epoch_pass_through_what_is_around_the_net():
    search = GridSearchCV(make_net(), {"lr": [0.01]}, cv=2)
    pipeline = make_pipeline(FunctionTransformer(np.negative), search)
    scaled = TransformedTargetRegressor(pipeline, transformer=StandardScaler())
    result = quietly({"net": scaled}, X, 100 + 10 * Y, GROUPS, by_epoch=True)
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
    assert n_epochs.nunique() > 1
    assert result.y_pred_by_epoch["net"].shape[1] == n_epochs.min()


# Folders


def contents(folder):
    return {p: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_finished_fit_is_not_run_again(tmp_path, capsys):
    nets = {"a net": make_net(max_epochs=1)}
    options = {"folder": tmp_path / "fits", "verbose": 11}
    first = quietly(nets, X, Y, GROUPS, **options)
    out, err = capsys.readouterr()
    assert out == "8 fits, 1 in parallel\n"
    assert err.count("Done") == 8 + 1
    before = contents(tmp_path)
    next(tmp_path.rglob("a-net-*/*fold_2.npz")).unlink()
    same = {"a net": make_net(max_epochs=1, iterator_train__pin_memory=False)}
    second = quietly(same, X, Y, GROUPS, **options)
    assert "8 fits, 7 of them found" in capsys.readouterr().out
    np.testing.assert_array_equal(first.y_pred["a net"], second.y_pred["a net"])
    unchanged = contents(tmp_path)
    assert unchanged.keys() == before.keys()
    more = quietly({**nets, **RIDGES}, X, Y, GROUPS, **(options | {"n_seeds": 2}))
    assert "28 fits, 8 of them found" in capsys.readouterr().out
    np.testing.assert_array_equal(more.y_pred["a net"][:1], first.y_pred["a net"])
    npz = {p: c for p, c in unchanged.items() if p.suffix == ".npz"}
    assert contents(tmp_path).items() >= npz.items()
    curves = quietly(nets, X, Y, GROUPS, by_epoch=True, **options)
    assert "8 fits, 4 of them found" in capsys.readouterr().out
    np.testing.assert_array_equal(curves.y_pred["a net"], first.y_pred["a net"])


def test_a_run_that_ends_while_it_writes_continues_bit_for_bit(tmp_path, monkeypatch):
    nets, savez = {"net": make_net()}, np.savez

    def killed(file, **result):
        if len(list(tmp_path.glob("*/*.npz"))) == 7:
            file.write(b"PK, half a fi")
            raise KeyboardInterrupt
        savez(file, **result)

    monkeypatch.setattr(np, "savez", killed)
    with pytest.raises(KeyboardInterrupt):
        quietly(nets, X, Y, GROUPS, folder=tmp_path, n_seeds=2)
    monkeypatch.undo()
    kept = {p: c for p, c in contents(tmp_path).items() if p.suffix == ".npz"}
    assert len(kept) == 7
    resumed = quietly(nets, X, Y, GROUPS, folder=tmp_path, n_seeds=2)
    whole = quietly(nets, X, Y, GROUPS, n_seeds=2)
    np.testing.assert_array_equal(resumed.y_pred["net"], whole.y_pred["net"])
    assert contents(tmp_path).items() >= kept.items()


def test_a_folder_of_something_else_is_refused(tmp_path):
    given = {"estimators": RIDGES, "X": X, "y": Y, "groups": GROUPS, "folder": tmp_path}
    quietly(**given)
    before = contents(tmp_path)
    weak, merged = linear(Ridge(2.0)), np.where(GROUPS == "S1", "S0", GROUPS)
    for change, message in (
        ({"y": -Y}, "belongs to another comparison .y was .*, is "),
        ({"X": X + 1}, "another comparison .X was"),
        ({"groups": GROUPS[::-1]}, "another comparison .groups was"),
        ({"cv": GroupKFold(3)}, "another comparison .folds was"),
        ({"estimators": {"ridge": weak}}, r"ridge: ridge__alpha was 1\.0, is 2\.0"),
        ({"estimators": {"ridge": Ridge()}}, "ridge: class was sklearn.*Pipeline, is"),
        ({"params": {"ridge": {"groups": GROUPS}}}, "ridge: params was"),
        ({"X": SubjectWindows(X, merged)}, "groups of X was not set, is shape"),
    ):
        with pytest.raises(ValueError, match=message):
            quietly(**(given | change))
    assert contents(tmp_path) == before
    quietly(**(given | {"X": SubjectWindows(X, GROUPS)}))
    file = tmp_path / "comparison.json"
    stored = json.loads(file.read_text())
    stored["versions"]["numpy"] = "1.0"
    file.write_text(json.dumps(stored))
    with pytest.raises(ValueError, match=r"version of numpy was 1\.0, is [2-9]"):
        quietly(**given)


def test_callbacks_without_a_name_belong_to_the_settings(tmp_path):
    def nets(*callbacks):
        return {"net": make_net(max_epochs=1, callbacks=list(callbacks))}

    options = {"folder": tmp_path}
    quietly(nets(LRScheduler(StepLR, step_size=1)), X, Y, GROUPS, **options)
    quietly(nets(LRScheduler(StepLR, step_size=1)), X, Y, GROUPS, **options)
    for other in (LRScheduler(StepLR, step_size=2), LRScheduler(ExponentialLR)):
        with pytest.raises(ValueError, match=r"net: callbacks was .*LRScheduler"):
            quietly(nets(other), X, Y, GROUPS, **options)
    workers = {"net": make_net(max_epochs=1, iterator_train__num_workers=1)}
    with pytest.raises(ValueError, match="num_workers was not set, is 1"):
        quietly(workers, X, Y, GROUPS, **options)


def test_how_likely_an_augmentation_is_belongs_to_the_settings(tmp_path):
    def nets(probability):
        dropout = ChannelsDropout(probability)
        return {
            "net": make_net(
                max_epochs=1, iterator_train=AugmentedDataLoader,
                iterator_train__transforms=[dropout],
            )
        }  # fmt: skip

    quietly(nets(0.2), X, Y, GROUPS, folder=tmp_path)
    quietly(nets(0.2), X, Y, GROUPS, folder=tmp_path)
    with pytest.raises(ValueError, match=r"ChannelsDropout.*probability: 0\.8"):
        quietly(nets(0.8), X, Y, GROUPS, folder=tmp_path)


def test_a_frozen_estimator_is_not_stored(tmp_path):
    frozen = FrozenEstimator(linear(Ridge()).fit(X, Y))
    with pytest.raises(ValueError, match=r"FrozenEstimator.*'frozen' holds one"):
        quietly({"frozen": frozen}, X, Y, GROUPS, folder=tmp_path)
    assert not list(tmp_path.iterdir())


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


# Results


def test_recordings_pool_windows():
    recordings = np.array([f"{g}-{i % 8 // 5}" for i, g in enumerate(GROUPS)])
    y = np.where([r.endswith("0") for r in recordings], "rest", "task")
    result = quietly(
        {"net": make_net(EEGClassifier, max_epochs=1)}, X, (y == "task").astype(int),
        GROUPS, by_epoch=True,
    )  # fmt: skip
    pooled = result.by_recording(recordings)
    names, one = np.unique(recordings), result.y_pred["net"][0]
    expected = [one[recordings == name].mean(axis=0) for name in names]
    close(pooled.y_pred["net"][0], expected)
    close(pooled.y_pred_by_epoch["net"][0, 0], expected)
    assert pooled.y.tolist() == [int(name.endswith("1")) for name in names]
    assert pooled.subjects.tolist() == result.subjects.tolist()
    assert pooled.scores("fold")["fold"].max() == 4
    for wrong, what in ((GROUPS, "target"), (np.tile(recordings[:8], 8), "subject")):
        with pytest.raises(ValueError, match=f"the {what} of 'S0.*' varies"):
            result.by_recording(wrong)
    with pytest.warns(UserWarning, match="trains and tests on"):
        mixed = quietly(
            RIDGES, X, np.unique(GROUPS, return_inverse=True)[1] / 2, GROUPS,
            cv=list(KFold(2, shuffle=True, random_state=0).split(X)),
        )  # fmt: skip
    with pytest.raises(ValueError, match="the fold of 'S0' varies"):
        mixed.by_recording(GROUPS)


def test_the_report_is_one_page_that_says_it_all(tmp_path):
    names = {"a<b": LOGISTIC["logistic"], r"$\eta$": linear(LogisticRegression(C=0.5))}
    result = quietly(names, X, LABELS, GROUPS)
    result.report(tmp_path / "report.html", title="1 < 2")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert len(page) < 300_000
    assert not re.findall(r"https?://|<script|<link", page.replace("data:", ""))
    for wanted in ("1 &lt; 2", "a&lt;b", "eta", "S7", "torch", "Holm correction",
                   "CPU time", "logisticregression__C", "color-scheme"):  # fmt: skip
        assert wanted in page
    settings = page[page.index(">Settings<") : page.index(">Versions<")]
    assert ">0.5<" in settings  # of C
    # The same in both. An estimator within another shows its parameters in braces.
    assert "max_iter" not in re.sub("{[^<]*", "", settings)
    assert "a<b" not in page
    assert page.index("better than the class frequencies") < page.index("<img")
    scores = page[page.index("<h2>Scores") : page.index("<h2>Differences")]
    assert scores.count("log loss") == 1
    assert "neg_" not in page
    loss = result.to_frame().loc["a<b", "loss"]
    assert f"<td>{loss:.3f} [" in scores
    in_a_notebook = result._repr_html_()
    assert f"<td>{loss:.3f} [" in in_a_notebook
    assert "<li>a&lt;b (0." in in_a_notebook
    with pytest.raises(ValueError, match=r"path must end in .html, got 'x.txt'"):
        result.report("x.txt")


def test_paired_losses_are_plotted():
    result = quietly({**RIDGES, "_$x$": linear(Ridge(10.0))}, X, Y, GROUPS)
    losses, table = result.subject_losses, result.comparisons()
    first, second, differences = result.plot().axes
    for ax, name in ((first, "strong"), (second, "_$x$")):
        *subjects, mean, dummy = ax.lines
        expected = {tuple(pair) for pair in losses[["ridge", name]].to_numpy()}
        assert {tuple(line.get_ydata()) for line in subjects} == expected
        for line in subjects:
            before, after = line.get_ydata()
            assert line.get_linestyle() == ("-" if after < before else "--")
        close(mean.get_ydata(), losses[["ridge", name]].mean())
        assert dummy.get_ydata()[0] == losses["dummy"].mean()
    assert first.get_ylabel() == "normalized squared error\nof each subject"
    assert differences.get_xlabel() == "normalized squared error, difference to ridge"
    labels = [text.get_text() for text in differences.get_yticklabels()]
    assert labels == [r" _\$x\$", "strong"]  # the first at the top, no dummy
    circles = [line for line in differences.lines if line.get_marker() == "o"]
    faces = [line.get_markerfacecolor() for line in circles]
    are_significant = table.loc[["_$x$", "strong"], "p_holm"] < 0.05
    assert [face != "w" for face in faces] == are_significant.tolist()
    found = [line.get_xdata()[0] for line in circles]
    close(found, table.loc[["_$x$", "strong"], "difference"])
    (figure,) = {ax.figure for ax in (first, second, differences)}
    (legend,) = figure.legends
    assert {"mean", "dummy"} < {text.get_text() for text in legend.get_texts()}
    plt.close("all")


class Diverging(Ridge):
    def predict(self, X):
        return np.full(len(X), np.nan)


class HalfDiverging(Ridge):
    """Predicts some subjects well, and others not at all."""

    def predict(self, X):
        found = super().predict(X)
        found[len(X) // 2 :] = np.nan
        return found


@pytest.mark.filterwarnings("ignore:half, seed:UserWarning")
def test_an_estimator_that_fails_on_some_windows_is_not_better_than_the_dummy():
    result = quietly({**RIDGES, "half": linear(HalfDiverging())}, X, Y, GROUPS)
    assert np.isnan(result.to_frame().loc["half", "loss"])
    first, *others = result.sentences()
    assert first.endswith(
        "half has predictions that are not finite, so its loss is unknown."
    )
    assert not any("nan" in sentence for sentence in (first, *others))


def channel(i):
    return make_pipeline(FunctionTransformer(lambda X: flatten(X)[:, [i]]), Ridge())


def test_p_values_are_corrected_by_holm():
    """Step by step, without the estimators that could not be tested."""
    # Only channel 0 says something about the target.
    estimators = {f"channel {i}": channel(i) for i in (1, 2, 0)} | {"0": channel(0)}
    with pytest.warns(UserWarning, match="predictions of 16 windows are not") as caught:
        result = quietly({**estimators, "bad": linear(Diverging())}, X, Y, GROUPS)
    assert str(caught[0].message).startswith("bad, seed 0, fold 1: ")
    assert np.isnan(result.to_frame().loc["bad", "r2"])
    table = result.comparisons().sort_values("p_value")  # nan is last
    assert table.index[-1] == "bad"
    assert np.isnan(table.loc["bad", ["p_value", "p_holm"]].to_numpy(float)).all()
    table, largest = table[:-1], 0.0
    for rank, (p, corrected) in enumerate(table[["p_value", "p_holm"]].to_numpy()):
        largest = max(largest, min(1.0, (len(table) - rank) * p))
        assert corrected == pytest.approx(largest)
    assert table["p_holm"].nunique() > 1


def test_many_estimators_leave_the_lines_out():
    many = {f"ridge {i}": linear(Ridge(i + 1.0)) for i in range(8)}
    with pytest.warns(UserWarning, match=r"8 subjects .* and 8 comparisons"):
        result = quietly(many, X, Y, GROUPS)
    assert len(result.plot().axes) == 1
    assert np.isinf(result.comparisons()["smallest_detectable"]).all()
    assert "few subjects and 8 comparisons, no difference" in result.sentences()[1]
    plt.close("all")


def test_sentences_tell_no_difference_from_too_little_data():
    result = quietly({**RIDGES, "same": RIDGES["ridge"]}, X, Y, GROUPS)
    _, strong, same = result.sentences()
    assert "The difference is significant (p = 0.023 after Holm" in strong
    assert "0 of 8 subjects" in strong
    assert "not significant (p = 1 after Holm correction)" in same
    detectable = result.comparisons().loc["same", "smallest_detectable"]
    assert f"80 % power to detect a difference of {detectable:.3f}." in same


def test_the_first_sentence_is_about_the_dummy():
    wrong = {"wrong": linear(Opposite())}
    losses = quietly(RIDGES | wrong, X, Y, GROUPS).to_frame()["loss"]
    mean = f"the mean of the targets (normalized squared error {losses['dummy']:.3f})"
    both = "ridge ({ridge:.3f}) and strong ({strong:.3f})".format(**losses)
    for estimators, said in (
        (RIDGES, f"{both} are better than {mean}."),
        (wrong, f"No model is better than {mean}."),
        (
            RIDGES | wrong,
            f"{both} are better than {mean}, but wrong ({losses['wrong']:.3f}) is not.",
        ),
    ):
        assert quietly(estimators, X, Y, GROUPS).sentences()[0] == said


def test_a_comparison_can_be_pickled_and_does_not_change():
    result = quietly(RIDGES, X, Y, GROUPS)
    again = pickle.loads(pickle.dumps(result))
    before = result.comparisons()
    losses = result.subject_losses
    losses *= 2
    for found in (result, again):
        assert found.comparisons().equals(before)
    with pytest.raises(AttributeError):
        result.y = Y


# Warnings


class Opposite(Ridge):
    def predict(self, X):
        return -super().predict(X)


@pytest.mark.filterwarnings("ignore:The groups parameter is ignored by KFold")
def test_warnings():
    wrong, module = linear(Opposite()), Tiny(3, 40, 1)
    net = EEGRegressor(module, max_epochs=1, batch_size=8, train_split=None, verbose=0)
    for change, message in (
        (
            {"cv": KFold(4, shuffle=True, random_state=0)},
            "fold 1 trains and tests on .* of the same subjects, such as 'S.'",
        ),
        ({"estimators": {"wrong": wrong}}, "no better than the dummy .*: wrong"),
        (
            {"groups": np.repeat(["a", "b", "c", "d"], 16)},
            "4 subjects in the test folds and 2 comparisons no corrected .* below 0.25",
        ),
        ({"estimators": {"net": net}}, "'net' is an instance, so all seeds have"),
        (
            {"X": SubjectWindows(X, np.roll(GROUPS, 1))},
            "8 subjects in X and the 8 in groups overlap",
        ),
    ):
        given = {"estimators": RIDGES, "X": X, "y": Y, "groups": GROUPS} | change
        with pytest.warns(UserWarning, match=message):
            quietly(**given)


# Errors


class Failing(Ridge):
    def fit(self, X, y):
        raise RuntimeError("out of luck")


class Odds(LogisticRegression):
    def predict_proba(self, X):
        return 2 * super().predict_proba(X)


class Wide(Ridge):
    def predict(self, X):
        return np.stack([super().predict(X)] * 3, axis=1)


EPOCHS = mne.EpochsArray(np.zeros((2, 1, 9)), mne.create_info(1, 9.0, "eeg"))


REFUSED = {
    "data": [
        ({"X": EPOCHS}, TypeError,
         r"X must not be mne.Epochs, which hold volts, got <EpochsArray"),
        ({"X": torch.utils.data.TensorDataset(torch.as_tensor(X))}, TypeError,
         r"must be an array, got TensorDataset; .*to_arrays\(windows\)"),
        ({"groups": None}, TypeError, "groups must name a subject for .*, got None"),
        ({"groups": np.zeros(64)}, ValueError, "groups: 1"),
        ({"groups": GROUPS[1:]}, ValueError, "X: 64, y: 64, groups: 63"),
        ({"y": np.where(Y > 1, np.nan, Y)}, ValueError, r"y must be finite, got \[nan"),
        ({"estimators": LOGISTIC, "y": [*LABELS[1:], None]}, ValueError,
         "y must name a label for every window, got None for window 63"),
        ({"estimators": LOGISTIC, "y": np.eye(2)[CODES]}, ValueError,
         r"1d array, got an array of shape \(64, 2\)"),
    ],
    "estimators": [
        ({"estimators": {"a": StandardScaler()}}, ValueError,
         "all regressors or all classifiers .* got {'a': 'StandardScaler'}"),
        ({"estimators": RIDGES | LOGISTIC}, ValueError, "all regressors or all"),
        ({"estimators": {0.1: Ridge()}}, TypeError, "must be text, got 0.1"),
        ({"estimators": {"dummy": Ridge()}}, ValueError, "'dummy' is reserved for the"),
        ({"estimators": {"m": DummyRegressor()}}, ValueError, "must not be a dummy"),
        ({"estimators": {"svm": linear(LinearSVC())}, "y": LABELS}, AttributeError,
         "predict_proba"),
        ({"estimators": {"odds": linear(Odds())}, "y": LABELS}, ValueError,
         "must return probabilities, which sum to 1"),
        ({"estimators": {"n": make_net(EEGClassifier, module__n_outputs=3)},
          "y": CODES}, ValueError, "must return a probability for each of its classes"),
        ({"estimators": {"three": linear(Wide())}}, ValueError,
         r"must predict 1 columns, as in y, .* got the shape \(16, 3\)"),
        ({"params": {"rigde": {}}}, ValueError, r"one of 'ridge'.*'rigde'"),
    ],
    "folds and seeds": [
        ({"cv": 9}, ValueError, "greater than the number of groups: 8"),
        ({"cv": "loo"}, ValueError, "Got loo"),
        ({"cv": [(np.arange(9), np.arange(9, 18))] * 2}, ValueError,
         "window 9 in test folds 1 and 2"),
        ({"cv": [(np.arange(9), np.arange(63, 64)), (np.arange(9), [-1])]}, ValueError,
         "window 63 in test folds 1 and 2"),
        ({"n_seeds": 0}, ValueError, "n_seeds must be an integer >= 1, got 0"),
    ],
    "scores": [
        ({"loss": "mse"}, ValueError, "loss must be one of 'nmse'"),
        ({"scoring": ["r2", make_scorer(r2_score)]}, ValueError, "callable"),
        ({"scoring": {"loss": "r2"}}, ValueError, "must not name a scorer 'loss'"),
        ({"scoring": {"r2": "r2", "r2_sd": "neg_max_error"}}, ValueError,
         "must not name a scorer 'r2_sd'"),
        ({"scoring": lambda e, X, y: {"a": 1.0}}, TypeError, "dict"),
    ],
    "nets": [
        ({"estimators": {"net": make_net(callbacks="disable")}, "by_epoch": True},
         ValueError, "callbacks are a list or None, but 'net' has 'disable'"),
        ({"estimators": {"net": make_net(callbacks=[Checkpoint(load_best=True)])}},
         ValueError,
         "'net' must not have the callback Checkpoint, whose file all fits would"),
        ({"estimators": {"net": make_net(callbacks=[ResumableCheckpoint()])}},
         ValueError, "callback ResumableCheckpoint, whose file all fits would share"),
        ({"estimators": {"both": VotingRegressor(
            [("a", make_net()), ("b", make_net())])}}, ValueError,
         r"VotingRegressor must predict 1 columns, .* got the shape \(1, 2\)"),
        ({"estimators": {"both": VotingClassifier(
            [("a", make_net(EEGClassifier)), ("b", make_net(EEGClassifier))],
            voting="soft")}, "y": CODES, "by_epoch": True}, ValueError,
         "predict with a single net, got VotingClassifier with 2"),
        ({"estimators": {"c": CalibratedClassifierCV(make_net(EEGClassifier), cv=2)},
          "y": CODES, "by_epoch": True}, ValueError,
         "predict with a single net, got CalibratedClassifierCV with 0"),
    ],
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_would_be_wrong_is_refused(what):
    for change, error, message in REFUSED[what]:
        given = {"estimators": RIDGES, "X": X, "y": Y, "groups": GROUPS} | change
        with pytest.raises(error, match=message):
            quietly(**given)


def test_an_error_tells_the_fit_or_the_scorer():
    with pytest.raises(RuntimeError, match="out of luck") as caught:
        quietly({"bad": linear(Failing())}, X, Y, GROUPS)
    assert caught.value.__notes__ == ["Raised in the fit of bad, seed 0, fold 1."]
    with pytest.raises(AssertionError) as caught:
        quietly({"net": make_net(EEGClassifier)}, X, LABELS, GROUPS)
    assert "make_classifier also as text" in caught.value.__notes__[1]
    with pytest.raises(ValueError, match="pos_label") as caught:
        quietly(LOGISTIC, X, LABELS, GROUPS, scoring=["accuracy", "f1"])
    assert caught.value.__notes__ == ["Raised by the scorer 'f1'."]


def test_parameters_of_fit_reach_one_estimator():
    grid, fit = {"ridge__alpha": [0.1, 10.0]}, {"groups": GROUPS}
    search = GridSearchCV(linear(Ridge()), grid, cv=GroupKFold(3))
    params = {"search": fit}
    result = quietly({"search": search, **RIDGES}, X, Y, GROUPS, params=params)
    expected = cross_val_predict(search, X, Y, groups=GROUPS, cv=CV, params=fit)
    close(result.y_pred["search"][0, :, 0], expected, rtol=1e-6)


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


def test_names_are_no_paths(tmp_path):
    names = ["..", "a/b", "x" * 300, "脑" * 99, "comparison.json"]
    estimators = {name: linear(Ridge(i)) for i, name in enumerate(names)}
    found = [
        quietly(estimators, X, Y, GROUPS, folder=tmp_path / "inner") for _ in range(2)
    ]
    for name in names:
        np.testing.assert_array_equal(*(f.y_pred[name] for f in found))
    assert [p.name for p in tmp_path.iterdir()] == ["inner"]
    assert len(list((tmp_path / "inner").glob("*/*.npz"))) == 6 * 4


def test_a_fit_of_another_comparison_is_not_taken(tmp_path):
    quietly(RIDGES, X, Y, GROUPS, folder=tmp_path / "a")
    quietly(RIDGES, X, -Y, GROUPS, folder=tmp_path / "b")
    (foreign,) = (tmp_path / "b").glob("ridge-*/seed_0_fold_0.npz")
    (own,) = (tmp_path / "a").glob("ridge-*/seed_0_fold_0.npz")
    own.write_bytes(foreign.read_bytes())
    with pytest.raises(ValueError, match=r"fold_0.npz' is incomplete or a fit"):
        quietly(RIDGES, X, Y, GROUPS, folder=tmp_path / "a")
    own.write_bytes(foreign.read_bytes()[:-30])
    with pytest.raises(ValueError, match=r"fold_0.npz' is incomplete or a fit"):
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


@pytest.mark.parametrize(
    ("container", "y"),
    [
        (lambda y: y[:, None], CODES + 1),
        (lambda y: pd.DataFrame({"label": y}), LABELS),
        (lambda y: y.astype(object), CODES + 1),
    ],
    ids=["column", "table", "objects"],
)
def test_labels_in_other_containers(container, y):
    expected = quietly(LOGISTIC, X, y, GROUPS)
    found = quietly(LOGISTIC, X, container(y), GROUPS)
    assert found.classes.tolist() == expected.classes.tolist()
    assert found.classes.dtype == expected.classes.dtype
    tables = (r.to_frame().drop(columns="cpu_seconds") for r in (found, expected))
    pd.testing.assert_frame_equal(*tables)


def test_frozen_estimators_are_compared():
    fitted = clone(RIDGES["ridge"]).fit(X, Y)
    result = quietly({"frozen": FrozenEstimator(fitted)}, X, Y, GROUPS)
    close(result.y_pred["frozen"][0, :, 0], fitted.predict(X))


def test_threads_are_refused():
    with (
        joblib.parallel_config("threading"),
        pytest.raises(ValueError, match="got joblib's threading"),
    ):
        quietly(RIDGES, X, Y, GROUPS, n_jobs=2)
