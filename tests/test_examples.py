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
def test_challenge_2():
    options = ["--subjects", 10, "--trials", 2, "--epochs", 1]
    printed = run("examples/plot_challenge_2.py", *options)
    assert "X (20, 104, 1000), y (20, 8)" in printed
    assert "Training on " in printed
    each = printed.split("each output, pooled: [")[1].split("]")[0]
    assert len(each.split()) == 8
    check_table(printed)


@pytest.mark.slow
def test_response_times(eeglab):
    printed = run("examples/plot_response_times.py", eeglab, "--epochs", 1)
    assert "kept 74 of 80 trials; left out 6 without a response" in printed
    assert "74 trials, 30 x 128" in printed
    assert "better than the mean predictor" in printed


@pytest.mark.slow
def test_response_times_without_a_file_explains_itself():
    assert "FILE is ``eeglab_data.set``" in run("examples/plot_response_times.py")


@pytest.mark.slow
def test_why_sam():
    options = ["--subjects", 4, "--epochs", 2, "--directions", 2]
    printed = run("examples/plot_why_sam.py", *options)
    for optimizer in ("AdamW", "SAM"):
        assert f"{optimizer}: loss " in printed
        assert f"Random directions, {optimizer}: the loss rises by " in printed
        assert f"Filter-normalized directions, {optimizer}: the loss" in printed


@pytest.mark.slow
def test_choose_rho():
    options = ["--subjects", 6, "--trials", 8, "--epochs", 1, "--rhos", 0, 0.1]
    printed = run("examples/plot_choose_rho.py", *options)
    chosen = [line for line in printed.splitlines() if ": chose rho" in line]
    assert len(chosen) == 3
    assert all(" rho 0.0," in line or " rho 0.1," in line for line in chosen)
    assert "in the inner folds." in printed


@pytest.mark.slow
def test_compare(tmp_path):
    page = tmp_path / "report.html"
    options = ["--subjects", 6, "--trials", 8, "--epochs", 1, "--seeds", 1]
    printed = run("examples/plot_compare.py", *options, "--report", page)
    for estimator in ("AdamW", "SAM", "dummy"):
        assert any(line.startswith(estimator) for line in printed.splitlines())
    assert "SAM has a normalized squared error of" in printed
    assert "Holm correction" in page.read_text()


@pytest.mark.slow
def test_compare_real(tmp_path, eegmat):
    page = tmp_path / "report.html"
    options = ["--subjects", 6, "--epochs", 1, "--report", page]
    printed = run("examples/plot_compare_real.py", eegmat, *options)
    assert "180 windows of 6 people, 19 x 500" in printed
    for unit in ("windows", "recordings"):
        assert unit in printed.splitlines()
    assert "SAM has a log loss of" in printed
    assert "SAM has a log loss of" in page.read_text()


@pytest.mark.slow
def test_sam_for_nothing():
    options = ["--subjects", 4, "--epochs", 1, "--steps", 1]
    printed = run("examples/plot_sam_for_nothing.py", *options)
    differences = [
        float(line.split()[-1]) for line in printed.splitlines() if "largest" in line
    ]
    assert len(differences) == 2
    assert max(differences) < 1e-9
    assert printed.count("autograd keeps") == 4
    stock, fast = (
        float(line.split("NRMSE ")[1].split()[0])
        for line in printed.splitlines()
        if "AdamW: NRMSE" in line
    )
    assert fast == pytest.approx(stock, abs=0.05)


@pytest.mark.slow
def test_the_leak():
    options = ["--subjects", 6, "--trials", 6, "--epochs", 1]
    printed = run("examples/plot_the_leak.py", *options)
    for model in ("net", "mean predictor"):
        for folds in ("KFold of windows", "GroupKFold of people"):
            words = [*model.split(), *folds.split()]
            assert any(line.split()[:-2] == words for line in printed.splitlines())
    assert "the source reports 0.3008" in printed


@pytest.mark.slow
def test_from_bids(tmp_path):
    pytest.importorskip("pybv", reason="the extra bids is not installed")
    options = ["--subjects", 5, "--trials", 8, "--epochs", 1, "--folder", tmp_path]
    printed = run("examples/plot_from_bids.py", *options)
    assert "40 windows of 5 people, 129 x 200" in printed
    assert "windows with the trait; the first: [1.764]" in printed
    events = next(tmp_path.glob("sub-001/eeg/*_events.tsv")).read_text()
    assert "left_target" in events
    assert "right_buttonPress" in events


@pytest.mark.slow
def test_on_a_cluster():
    pytest.importorskip("distributed", reason="the extra distributed is not installed")
    options = ["--trials", 4, "--epochs", 2]
    printed = run("examples/plot_on_a_cluster.py", *options)
    assert "one of them killed: 5 scores" in printed
    assert printed.count("the same to the last bit") == 4
    assert "rho 0.05: mean R2 over the folds" in printed


@pytest.mark.slow
def test_real_eeg_with_too_few_people(eegmat):
    command = [sys.executable, "examples/plot_real_eeg.py", eegmat, "--subjects", "6"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "A fold needs at least two people" in done.stderr


@pytest.mark.slow
def test_real_eeg_without_a_folder_explains_itself():
    assert "holds ``SubjectNN_2.edf``" in run("examples/plot_real_eeg.py")


@pytest.mark.slow
def test_stock_and_fast_models_reach_the_same_scores(eegmat):
    options = ["--folds", 2, "--sfreq", 32, "--epochs", 1]
    printed = run("benchmarks/same_scores.py", eegmat, *options)
    differences = [line.split()[-1] for line in printed.splitlines() if "fast" in line]
    assert len(differences) == 2
    assert all(abs(float(difference)) < 1e-3 for difference in differences)


# One process for all of them: most of the time it takes is that of the imports.
ASK_FOR_HELP = """
import runpy, sys
sys.path.insert(0, "benchmarks")
for path in sys.argv[1:]:
    sys.argv = [path, "--help"]
    try:
        runpy.run_path(path, run_name="__main__")
    except SystemExit as stopped:
        print("status", stopped.code)
"""


@pytest.mark.slow
def test_benchmarks_explain_themselves():
    pytest.importorskip("pytorch_optimizer", reason="the extra bench is not installed")
    paths = sorted((ROOT / "benchmarks").glob("[!_]*.py"))
    printed = run("-c", ASK_FOR_HELP, *paths)
    for path in paths:
        assert f"usage: {path.name} " in printed
    assert printed.count("status 0") == len(paths) > 10
