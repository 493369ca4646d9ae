"""The study: its statistics, and that it resumes, refuses and reports."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from joblib.externals.loky import get_reusable_executor
from sklearn.dummy import DummyRegressor
from sklearn.model_selection import GroupKFold, cross_val_predict

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def report(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import _study_report

    return _study_report


@pytest.fixture
def cells(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import _study_cells

    return _study_cells


@pytest.fixture
def task(cells):
    rng = np.random.RandomState(0)
    y = rng.standard_normal(40).astype(np.float32)
    return cells.Task("noise", np.zeros((40, 2, 8)), y, np.repeat(list("abcdefgh"), 5))


def run_of(y_pred):
    return {"y_pred": np.asarray(y_pred)}


def test_holm_is_that_of_a_worked_example(report):
    p = np.array([0.01, 0.04, 0.03, 0.005])
    np.testing.assert_allclose(report.holm(p), [0.03, 0.06, 0.06, 0.02])


def test_the_bootstrap_draws_whole_subjects(report, task):
    for rows in report.resampled_rows(task, 20):
        drawn = task.subjects[rows]
        assert len(rows) == 40
        counts = {s: (drawn == s).sum() for s in np.unique(drawn)}
        assert all(n % 5 == 0 for n in counts.values())


def test_losses_of_subjects_are_those_of_the_formula(report, task, cells):
    y_pred = np.stack([task.y + 1, task.y - 2])
    losses = report.subject_losses(task, run_of(y_pred))
    np.testing.assert_allclose(losses, 2.5 / task.y.astype(float).var(), rtol=1e-5)
    classes = cells.Task("c", task.X, np.tile([0, 1], 20), task.subjects, True)
    p = np.where(classes.y == 1, 0.8, 0.4)
    losses = report.subject_losses(classes, run_of(p[None]))
    per_window = -np.log(np.where(classes.y == 1, 0.8, 0.6))
    expected = per_window.reshape(8, 5).mean(axis=1)
    np.testing.assert_allclose(losses, expected)


@pytest.mark.parametrize(("gain", "is_sure"), [(0.5, True), (0.0, False)])
def test_the_paired_test_finds_what_is_there(report, task, gain, is_sure):
    rng = np.random.RandomState(1)
    noise = rng.standard_normal((3, 40))
    base = run_of(task.y + noise)
    better = run_of(task.y + (1 - gain) * noise + 1e-3 * rng.standard_normal((3, 40)))
    found = report.compare(task, "net", "SAM", better, base, 50)
    assert (found["p"] < 0.05) == is_sure
    assert found["n_subjects"] == 8
    if is_sure:
        assert found["difference"] < 0
        assert found["ci_low"] <= found["difference"] <= found["ci_high"] < 0
        assert found["better_in_subjects"] == 8


def test_every_model_meets_both_optimizers_and_eegnex_the_family(cells, task):
    listed = cells.all_cells({"noise": task}, n_seeds=5, n_splits=5)
    assert len(set(listed)) == len(listed)
    of = {
        model: {c.optimizer for c in listed if c.model == model}
        for model in {c.model for c in listed}
    }
    assert of.pop("mean predictor") == of.pop("ridge on band power") == {"-"}
    family = of.pop("EEGNeX")
    assert set(cells.optim.__all__) | {"AdamW", "SAM rho=0.5"} <= family
    assert of == {
        name: {"AdamW", "SAM"}
        for name in ("CompactCNN", "EEGNet", "Deep4Net", "SeparableEEGNet")
    }
    n_runs = 5 * 5 * (2 * 4 + len(family)) + 2 * 5
    assert len(listed) == n_runs


@pytest.mark.parametrize("chooses_epoch", [True, False])
def test_the_epoch_is_chosen_on_held_out_subjects_or_not_at_all(cells, chooses_epoch):
    rng = np.random.RandomState(0)
    X = rng.standard_normal((40, 2, 128)).astype(np.float32)
    y, subjects = np.tile([0, 1], 20), np.repeat(list("abcdefghij"), 4)
    task = cells.Task("noise", X, y, subjects, True, chooses_epoch)
    settings = cells.Settings(max_epochs=2, batch_size=8)
    cell = cells.Cell(0, "noise", "EEGNeX", "SAM", 0)
    result = cells.fit_cell(cell, task, settings)
    assert result["y_pred"].shape == (8,)
    assert result["epoch"] in ((1, 2) if chooses_epoch else (2,))
    net = cells.make_net(cell, task, settings)
    assert (net.train_split is not None) == chooses_epoch


def test_band_power_sees_a_rhythm_in_its_band(cells):
    times = np.arange(500) / cells.SFREQ
    noise = 0.1 * np.random.RandomState(0).standard_normal((1, 2, 500))
    X = noise + np.sin(2 * np.pi * np.outer([10, 20], times))
    power = cells.log_band_power(X).reshape(2, 5)
    assert list(cells.BANDS)[power[0].argmax()] == "alpha"
    assert list(cells.BANDS)[power[1].argmax()] == "beta"


def study(*arguments):
    command = [sys.executable, "benchmarks/study.py", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.fixture
def in_this_process(cells, monkeypatch, capsys):
    """Run the study without the seconds that a process takes to import all."""
    import study

    # Workers that an earlier test left do not know where the study's modules are.
    get_reusable_executor().shutdown(wait=True)
    monkeypatch.setenv("PYTHONWARNINGS", "ignore")  # or the study itself would set it

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["study.py", *map(str, arguments)])
        study.main()
        return capsys.readouterr().out

    return run


@pytest.mark.slow
def test_a_small_study_resumes_and_reports(eegmat, tmp_path, cells, in_this_process):
    options = [
        eegmat, "--seeds", 1, "--epochs", 1, "--jobs", 2, "--resamples", 20,
        "--cells", tmp_path / "cells", "--results", tmp_path / "results",
        "--tasks", "response times", "--models", "mean predictor", "EEGNet",
    ]  # fmt: skip
    first = study(*options)
    assert first.returncode == 0, first.stderr
    assert "15 of 15 cells to run, 2 at a time" in first.stdout
    assert "15/15, about 0 min left: response times" in first.stdout
    kept = next((tmp_path / "cells").glob("*EEGNet_SAM*.npz"))
    kept.unlink()
    options[options.index("--jobs") + 1] = 1
    assert "1 of 15 cells to run" in in_this_process(*options)
    task = cells.load_tasks(eegmat)["response times"]
    summary = pd.read_csv(tmp_path / "results" / "summary.csv").set_index(
        ["model", "optimizer", "metric"]
    )
    expected = cross_val_predict(
        DummyRegressor(), task.X, task.y, groups=task.subjects, cv=GroupKFold(5)
    )
    error = np.sqrt(np.mean((task.y - expected) ** 2)) / task.y.std()
    found = summary.loc["mean predictor", "-", "nrmse_std"]
    assert found["pooled"] == pytest.approx(error, abs=1e-4)
    assert found["ci_low"] < error < found["ci_high"]
    assert summary.loc["EEGNet", "SAM", "nrmse_std"]["n_params"] == 1649
    comparisons = pd.read_csv(tmp_path / "results" / "comparisons.csv")
    assert list(comparisons["model"] + comparisons["optimizer"]) == ["EEGNetSAM"]
    assert (tmp_path / "results" / "response_times.png").stat().st_size > 5000
    options[options.index("--epochs") + 1] = 2
    with pytest.raises(SystemExit, match="name another folder with --cells"):
        in_this_process(*options)


def test_unknown_tasks_and_missing_recordings_are_named(
    eegmat, tmp_path, in_this_process, capsys
):
    unknown = r"--tasks must be among \['subtractions'.* got 'sleep'"
    with pytest.raises(SystemExit, match=unknown):
        in_this_process(eegmat, "--tasks", "sleep", "--cells", tmp_path)
    with pytest.raises(SystemExit, match="2"):
        in_this_process(eegmat, "--tasks", "response times", "--cells", tmp_path)
    assert "a part of the study needs --results" in capsys.readouterr().err
    missing = r"holds no file named like Subject\*_2.edf"
    with pytest.raises(FileNotFoundError, match=missing):
        in_this_process(tmp_path, "--cells", tmp_path / "cells")
