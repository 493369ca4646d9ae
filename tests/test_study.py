"""The script on questions runs, resumes and writes its tables."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from joblib.externals.loky import get_reusable_executor
from sklearn.dummy import DummyRegressor
from sklearn.model_selection import GroupKFold, cross_val_predict

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def run(monkeypatch, capsys):
    """Run the study in this process, without the seconds of another one's imports."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import study

    # Workers that an earlier test left do not know where the study's modules are.
    get_reusable_executor().shutdown(wait=True)
    monkeypatch.setenv("PYTHONWARNINGS", "ignore")  # or the study itself would set it

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["study.py", *map(str, arguments)])
        study.main()
        return capsys.readouterr().out

    run.study = study
    return run


@pytest.mark.full
@pytest.mark.filterwarnings("ignore:no better than the dummy")
def test_a_small_study_resumes_and_reports(tmp_path, run):
    options = [
        "response-times", "models", tmp_path, "--seeds", 1, "--epochs", 1, "--jobs", 2,
        "--fits", tmp_path / "fits", "--results", tmp_path / "results",
        "--only", "EEGNet, AdamW", "EEGNet, SAM rho=0.1",
    ]  # fmt: skip
    printed = run(*options)
    assert "15 fits, 2 in parallel" in printed
    assert "EEGNet, SAM rho=0.1 has a normalized squared error of" in printed
    next((tmp_path / "fits").rglob("*SAM*/*fold_3.npz")).unlink()
    options[options.index("--jobs") + 1] = 1
    assert "15 fits, 14 of them found" in run(*options)
    X, y, groups = run.study.response_times(tmp_path)
    expected = cross_val_predict(
        DummyRegressor(), X, y, groups=groups, cv=GroupKFold(5)
    )
    results = tmp_path / "results"
    scores = pd.read_csv(results / "response-times_models_scores.csv", index_col=0)
    assert scores.loc["dummy", "neg_nrmse"] == pytest.approx(
        -np.sqrt(np.mean((y - expected) ** 2)) / y.std(), abs=1e-4
    )
    assert scores.loc["EEGNet, AdamW", "n_params"] == 1649
    comparisons = pd.read_csv(results / "response-times_models_comparisons.csv")
    assert list(comparisons["estimator"]) == ["EEGNet, SAM rho=0.1", "dummy"]
    assert len(pd.read_csv(results / "response-times_models_by_epoch.csv")) == 2
    losses = pd.read_csv(results / "response-times_models_subjects.csv")
    assert losses.shape == (24, 4)
    assert (tmp_path / "fits" / "response-times_models.html").is_file()
    options[options.index("--epochs") + 1] = 2
    with pytest.raises(ValueError, match="max_epochs was 1, is 2"):
        run(*options)


@pytest.mark.full
def test_every_question_can_be_read(tmp_path, run, eegmat):
    for name, question in run.study.QUESTIONS.items():
        X, y, groups = question.read(eegmat.parent)
        assert len(X) == len(y) == len(groups), name
        assert np.isfinite(X).all()
        assert len(np.unique(groups)) >= 5
        for settings in run.study.SETTINGS.values():
            net = run.study.make_estimator(question, settings, X, y, 1)
            assert net.get_params()
    for names in run.study.TOPICS.values():
        assert set(names) <= set(run.study.SETTINGS)


@pytest.mark.full
@pytest.mark.filterwarnings("ignore:no better than the dummy")
def test_an_epoch_is_chosen_on_training_subjects(tmp_path, run):
    run(
        "response-times", "epoch", tmp_path, "--seeds", 1, "--epochs", 2, "--jobs", 1,
        "--fits", tmp_path / "fits", "--results", tmp_path / "results",
        "--only", "AdamW, epoch chosen", "AdamW",
    )  # fmt: skip
    fixed, chosen = pd.read_csv(
        tmp_path / "results" / "response-times_epoch_scores.csv", index_col=0
    ).loc[["AdamW", "AdamW, epoch chosen"], "loss"]
    assert fixed != chosen


def test_unknown_settings_are_named(tmp_path, run, capsys):
    with pytest.raises(SystemExit, match="2"):
        run("response-times", "rho", tmp_path, "--only", "Adam")
    assert "--only must be among ['AdamW', " in capsys.readouterr().err
