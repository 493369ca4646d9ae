"""The example scripts run, as a user runs them, and print what they promise."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def run(*arguments):
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def check_table(printed):
    assert "NRMSE, lower is better" in printed
    for row in ("fold 1", "fold 5", "mean", "pooled"):
        numbers = next(line for line in printed.splitlines() if line.startswith(row))
        assert len(numbers.removeprefix(row).split()) == 4
    assert "better than the mean predictor" in printed
    assert printed.count("sharpness") == 5  # progress, for each fold


@pytest.mark.slow
def test_challenge_1():
    options = ["--subjects", 10, "--trials", 4, "--epochs", 1]
    printed = run("examples/plot_challenge_1.py", *options)
    assert "40 trials of 10 subjects, 72 x 500 each" in printed
    check_table(printed)


@pytest.mark.slow
def test_real_eeg(eegmat):
    options = ["--subjects", 10, "--epochs", 1]
    printed = run("examples/plot_real_eeg.py", eegmat, *options)
    assert "150 windows of 10 people, 19 x 500" in printed
    check_table(printed)


@pytest.mark.slow
def test_on_a_cluster():
    pytest.importorskip("distributed", reason="the extra distributed is not installed")
    options = ["--trials", 8, "--epochs", 2]
    printed = run("examples/plot_on_a_cluster.py", *options)
    assert "one of them killed: 5 scores" in printed
    assert printed.count("the same to the last bit") == 4
    assert "rho 0.05: mean R2 over the folds" in printed


def test_real_eeg_with_too_few_people(eegmat):
    command = [sys.executable, "examples/plot_real_eeg.py", eegmat, "--subjects", "6"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "A fold needs at least two people" in done.stderr


def test_real_eeg_without_a_folder_explains_itself():
    assert "holds ``SubjectNN_2.edf``" in run("examples/plot_real_eeg.py")


@pytest.mark.slow
def test_stock_and_fast_models_reach_the_same_scores(eegmat):
    options = ["--folds", 2, "--sfreq", 32, "--epochs", 10]
    printed = run("benchmarks/same_scores.py", eegmat, *options)
    differences = [line.split()[-1] for line in printed.splitlines() if "fast" in line]
    assert len(differences) == 2
    assert all(abs(float(difference)) < 1e-3 for difference in differences)


@pytest.mark.parametrize(
    "path", sorted((ROOT / "benchmarks").glob("[!_]*.py")), ids=str
)
def test_benchmarks_explain_themselves(path):
    pytest.importorskip("pytorch_optimizer", reason="the extra bench is not installed")
    assert "usage:" in run(path, "--help")
