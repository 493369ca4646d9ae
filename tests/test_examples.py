"""The examples run with small sizes, and print what they promise."""

import importlib.util
import json
import os
import re
import runpy
import subprocess
import sys
import warnings
from pathlib import Path

import joblib
import matplotlib.pyplot as plt
import mne
import pytest
import sklearn

ROOT = Path(__file__).resolve().parents[1]
FULL = pytest.mark.full
NUMBER = r"-?\d+\.?\d*(?:e-?\d+)?"


@pytest.fixture
def runner(monkeypatch):
    # What it runs becomes the main module, until the end of the test.
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])
    spec = importlib.util.spec_from_file_location("runner", ROOT / "examples/run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def run_example(runner, monkeypatch, capsys):
    """Run an example in this process, without the seconds of another one's imports."""

    def run_example(name, options="", **environment):
        for variable, value in environment.items():
            monkeypatch.setenv(variable, str(value))
        monkeypatch.setattr(sys, "argv", ["run.py", name, *options.split()])
        with (
            warnings.catch_warnings(),
            mne.use_log_level("info"),
            sklearn.config_context(),  # what an example that fails would leave set
            joblib.parallel_config("sequential"),  # workers take seconds to start
        ):
            warnings.simplefilter("ignore")
            runner.main()
        plt.close("all")
        return capsys.readouterr().out

    return run_example


def numbers_of(printed, start):
    """Read the numbers in the only line with this beginning."""
    (rest,) = (
        line.strip().removeprefix(start)
        for line in printed.splitlines()
        if line.strip().startswith(start)
    )
    return [float(number) for number in re.findall(NUMBER, rest)]


def sentence(name="SAM", reference="AdamW"):
    """Pattern of what ``Comparison.sentences`` says of a model."""
    return rf"{name} has a [\w ]+ of [\d.]+ against [\d.]+ with {reference}: a diff"


# Options, and patterns of what is printed. "#" is a number.
EXAMPLES = {
    "plot_quick_start": (
        "--n-subjects 6 --n-trials 6 --n-epochs 1",
        ["AdamW # # #", "SAM # # #", "dummy # # #", sentence()],
    ),
    "plot_why_sam": (
        "--n-subjects 4 --n-epochs 2 --n-seeds 1 --n-directions 1",
        ["AdamW, seeds 0 to 0:", "SAM, seeds 0 to 0:", r"sharpness \["]
        + [
            f"{kind} directions, {optimizer}: the loss rises by #"
            for kind in ("Random", "Filter-normalized")
            for optimizer in ("AdamW", "SAM")
        ],
    ),
    "plot_challenge_1": (
        "--n-subjects 10 --n-trials 4 --n-epochs 1",
        ["40 trials of 10 subjects, 72 x 500", "NRMSE, lower is better", "by range"]
        + [f"{row} # # #" for row in ("fold 1", "fold 5", "mean", "pooled")]
        + [sentence()],
    ),
    "plot_challenge_2": (
        "--n-subjects 10 --n-trials 2 --n-epochs 1",
        [
            r"X \(20, 104, 1000\), y \(20, 8\)",
            "Training on ",
            "lower bound: 0.35",
            "Adamax: #",
            "SAM: #",
            "mean predictor: #",
            sentence(reference="Adamax"),
        ],
    ),
    "plot_compare": (
        "--n-subjects 6 --n-trials 8 --n-epochs 1 --n-seeds 1",
        ["AdamW # # # # #", "SAM # # # # #", "dummy # # # # #", sentence()],
    ),
    "plot_what_it_learned": (
        "--n-subjects 2 --n-trials 8 --n-epochs 1",
        ["AdamW: 16 outputs, peak at #", "SAM: 16 outputs, peak at #"],
    ),
    "plot_eeg_challenge": (
        "--n-subjects 8 --n-trials 12 --n-epochs 1",
        [
            r"96 windows of 8 subjects, \(129, 200\)",
            "Challenge 1: NRMSE #, mean predictor 1",
            "Challenge 2: NRMSE #, mean predictor 1",
        ],
    ),
    "plot_early_stopping": (
        "--n-subjects 8 --n-trials 6 --n-epochs 4 --patience 2 --n-epochs-to-resume 2",
        [
            r"AdamW:\D*[1-4] ",
            r"SAM:\D*[1-4] ",
            "Training ended with: power cut",
            "weights are equal: True",
        ],
    ),
    "plot_from_bids": (
        "--n-subjects 5 --n-trials 8 --n-epochs 1 --folder bids",
        ["40 windows of 5 subjects, 129 x 200", sentence()],
    ),
    "plot_callbacks": (
        "--n-subjects 6 --n-trials 6 --n-epochs 3",
        [
            rf"{name}: training loss (\D*#){{2}}"
            for name in ("AdamW", "constant", "late", "cosine", "SAM-ON")
        ],
    ),
    "plot_migrating": (
        "",
        [
            "same weights: True",
            "5 steps, BatchNorm has seen 5 batches",
            "state of a weight: momentum_buffer",
            r"AdamW:(\D*#){2}",
            r"SAM:(\D*#){2}",
        ],
    ),
    "plot_speed_up": (
        "--n-chans 8 --n-times 250 --batch-size 4 --n-steps 1",
        [r"as it was: \['0'"]
        + [
            f"{model}, +{optimizer}: "
            for model in ("EEGInceptionERP", "EEGNet", "ATCNet")
            for optimizer in ("AdamW", "SAM")
        ],
    ),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_print_what_they_promise(name, run_example, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options, patterns = EXAMPLES[name]
    printed = run_example(name, options)
    text = " ".join(printed.split())
    for pattern in patterns:
        assert re.search(pattern.replace("#", NUMBER), text), (pattern, printed)


def test_a_rho_is_chosen_in_each_fold(run_example):
    options = "--n-subjects 6 --n-trials 8 --n-epochs 1 --rhos 0 0.1"
    printed = run_example("plot_choose_rho", options)
    chosen = numbers_of(printed, "chosen rho: [")
    assert len(chosen) == 3
    assert set(chosen) <= {0.0, 0.1}
    scores = [numbers_of(printed, f"{n}: NRMSE ") for n in ("AdamW", "chosen rho")]
    if chosen == [0.0] * 3:
        assert scores[0] == scores[1]
    assert "normalized squared error, difference: " in printed


def test_folds_of_windows_leak_and_folds_of_subjects_do_not(run_example):
    printed = run_example("plot_the_leak")
    leaky, honest = numbers_of(printed, "NRMSE, folds of windows")
    assert leaky < 0.7 < 1 < honest
    (by_range,) = numbers_of(printed, "The mean predictor scores")
    assert 0.2 < by_range < 0.35


@FULL
def test_a_step_of_sam_on_the_fast_model_is_exact(run_example):
    options = "--n-subjects 4 --n-trials 4 --batch-size 8 --n-epochs 1 --n-steps 1"
    printed = run_example("plot_sam_for_free", options)
    for what in ("outputs", "gradients"):
        assert numbers_of(printed, f"largest difference of {what}:")[0] < 1e-9
    losses = [
        numbers_of(printed, f"{model}, AdamW: training loss ")[0]
        for model in ("EEGNeX", "FastEEGNeX")
    ]
    assert losses[0] == pytest.approx(losses[1], abs=0.01)


# Recordings


def test_real_eeg(run_example, eegmat):
    options = "--n-subjects 6 --n-epochs 1"
    printed = run_example("plot_real_eeg", options, EEGMAT_PATH=eegmat)
    assert "90 windows of 6 subjects, 19 x 500" in printed
    for name in ("AdamW", "SAM", "mean predictor"):
        by_std, by_range = numbers_of(printed, f"{name}  ")
        assert by_range < by_std
    assert re.search(sentence(), " ".join(printed.split()))


@FULL
def test_two_classes_of_real_eeg(run_example, tmp_path, eegmat):
    page = tmp_path / "report.html"
    options = f"--n-subjects 6 --n-epochs 1 --report {page}"
    printed = run_example("plot_compare_real", options, EEGMAT_PATH=eegmat)
    assert "180 windows of 6 subjects, 19 x 500" in printed
    for unit in ("windows", "recordings"):
        assert unit in printed.splitlines()
    assert re.search(sentence(), " ".join(printed.split()))
    assert "SAM has a log loss of" in page.read_text()


@FULL
def test_response_times_of_a_recording(run_example, eeglab, caplog):
    options = "--n-epochs 1 --n-seeds 1"
    printed = run_example("plot_response_times", options, EEGLAB_SAMPLE=eeglab)
    assert "kept 74 of 80 trials; left out 6 without a response" in caplog.text
    assert str(eeglab.parent) not in printed + caplog.text
    assert "74 trials, 30 x 128" in printed
    for pair in ("AdamW against the mean", "SAM against the mean", "SAM against AdamW"):
        assert re.search(rf"{pair}: .*: (better|worse|undecided)", printed)


@pytest.mark.parametrize(
    ("name", "variable", "source"),
    [
        ("plot_real_eeg", "EEGMAT_PATH", "physionet.org/content/eegmat/1.0.0"),
        ("plot_compare_real", "EEGMAT_PATH", "physionet.org/content/eegmat/1.0.0"),
        ("plot_response_times", "EEGLAB_SAMPLE", "github.com/sccn/eeglab"),
    ],
)
def test_without_recordings_examples_say_where_to_get_them(
    run_example, name, variable, source
):
    with pytest.raises(FileNotFoundError) as told:
        run_example(name, **{variable: "no_such_place"})
    for word in ("no_such_place", source, variable):
        assert word in str(told.value)


# In other processes


def run(*arguments, cwd=ROOT):
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@FULL
def test_on_a_cluster():
    options = ["--n-trials", 4, "--n-epochs", 2]
    printed = run("examples/run.py", "plot_on_a_cluster", *options)
    assert "killing a worker" in printed
    assert printed.count("the same bit for bit") == 4
    for rho in ("0.0", "0.1"):
        assert len(numbers_of(printed, f"rho {rho}: R2 of the folds")) == 5


# As sphinx-gallery converts an example, and in a kernel.
EXECUTE_NOTEBOOK = """
import sys
import nbformat
from nbclient import NotebookClient
from sphinx_gallery.notebook import python_to_jupyter_cli
script, name = sys.argv[1:]
python_to_jupyter_cli([script])
notebook = nbformat.read(name, as_version=4)
NotebookClient(notebook, timeout=600, kernel_name="python3").execute()
nbformat.write(notebook, name)
"""


@FULL
def test_an_example_runs_as_a_notebook(tmp_path):
    script = (ROOT / "examples" / "plot_quick_start.py").read_text()
    for constant, size in {"N_SUBJECTS": 6, "N_TRIALS": 6, "N_EPOCHS": 1}.items():
        pattern = rf"^{constant} = \d+"
        script, n = re.subn(pattern, f"{constant} = {size}", script, flags=re.MULTILINE)
        assert n == 1
    (tmp_path / "plot_quick_start.py").write_text(script)
    notebook = tmp_path / "plot_quick_start.ipynb"
    run("-c", EXECUTE_NOTEBOOK, "plot_quick_start.py", notebook.name, cwd=tmp_path)
    cells = json.loads(notebook.read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert all(cell["execution_count"] for cell in code)
    outputs = [output for cell in code for output in cell["outputs"]]
    printed = "".join("".join(output.get("text", "")) for output in outputs)
    assert "SAM has a log loss of" in printed


# examples/run.py

SCRIPT = '''"""What it does."""
import pickle

N_EPOCHS = 3
RATE = 0.5
NAMES = ["a", "b"]
FOLDER = ""  # a comment
MIXED = ["a", 1]
TWICE = 2 * N_EPOCHS
n_jobs = 2

def function():
    return N_EPOCHS

same = pickle.loads(pickle.dumps(function))
print(N_EPOCHS, RATE, NAMES, FOLDER, MIXED, TWICE, n_jobs, same(), __name__)
'''


def test_constants_become_options(tmp_path, runner, monkeypatch, capsys):
    path = tmp_path / "plot_script.py"
    path.write_text(SCRIPT)
    monkeypatch.setattr(runner, "EXAMPLES", tmp_path)

    def main(*options):
        monkeypatch.setattr(sys, "argv", ["run.py", "plot_script", *options])
        runner.main()

    main("--n-epochs", "4", "--names", "c", "d", "e", "--folder", "it's")
    printed = capsys.readouterr().out
    assert printed == "4 0.5 ['c', 'd', 'e'] it's ['a', 1] 8 2 4 __main__\n"
    with pytest.raises(SystemExit):
        main("--n-epochs", "many")
    assert "argument --n-epochs: invalid int value: 'many'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main("--help")
    help_text = capsys.readouterr().out
    assert "What it does." in help_text
    assert re.search(r"--n-epochs N_EPOCHS\s+default: 3", help_text)


# Benchmarks


def test_benchmarks_start(monkeypatch, capsys):
    """They import what they need and explain their options."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    paths = sorted((ROOT / "benchmarks").glob("[!_]*.py"))
    assert paths
    for path in paths:
        monkeypatch.setattr(sys, "argv", [path.name, "--help"])
        # What they import changes the filters.
        with warnings.catch_warnings(), pytest.raises(SystemExit) as stopped:
            runpy.run_path(str(path), run_name="__main__")
        assert stopped.value.code == 0
        assert f"usage: {path.name} " in capsys.readouterr().out


@FULL
def test_stock_and_fast_models_reach_the_same_scores(eegmat):
    options = ["--folds", 2, "--sfreq", 32, "--epochs", 1]
    printed = run("benchmarks/same_scores.py", eegmat, *options)
    differences = [line.split()[-1] for line in printed.splitlines() if "fast" in line]
    assert len(differences) == 2
    assert all(abs(float(difference)) < 1e-3 for difference in differences)
