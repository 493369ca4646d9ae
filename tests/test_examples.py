"""The examples run with small sizes, and print what they promise."""

import hashlib
import importlib.util
import io
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
import requests
import sklearn

from tests.eegbci import write_subjects

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
        [r"AdamW, sharpness of each seed: \[#\]", r"SAM, sharpness of each seed: \[#\]"]
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
    "plot_what_it_learned": (
        "--n-subjects 2 --n-trials 8 --n-epochs 1",
        ["AdamW: 16 outputs, peak at #", "SAM: 16 outputs, peak at #"],
    ),
    "plot_eeg_challenge": (
        "--n-subjects 8 --n-trials 12 --n-epochs 1",
        [
            r"96 windows of 8 subjects, \(129, 200\)"
            + 2 * r"(\D*\(129, 200\))? NRMSE of the net: # NRMSE of the mean: #.*",
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
        [
            "40 windows of 5 subjects, 129 x 200",
            "EEGNeX # #",
            r"(No model|EEGNeX \(#\)) is better than the mean of the targets",
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


def test_a_model_that_is_sped_up_is_exact(run_example):
    options = "--n-chans 32 --n-times 500 --batch-size 4 --n-steps 1"
    printed = run_example("plot_speed_up", options)
    assert numbers_of(printed, "relative difference of the gradients:")[0] < 1e-9
    assert "as it was: ['0'" in printed
    for model in ("EEGInceptionERP", "EEGNet", "ATCNet", "EEGNeX"):
        for optimizer in ("AdamW", "  SAM"):
            assert numbers_of(printed, f"{model}, {optimizer}:")


# Recordings


@FULL
def test_imagined_movements_are_decoded(run_example, tmp_path):
    write_subjects(tmp_path, 6, [4, 8])
    options = "--n-subjects 6 --runs 4 8 --n-epochs 16 --n-jobs 1"
    printed = run_example(
        "plot_motor_imagery", options, MNE_DATASETS_EEGBCI_PATH=tmp_path
    )
    assert "180 windows of 6 subjects, 64 x 240" in printed
    for name in ("AdamW", "SAM"):
        assert numbers_of(printed, f"{name}  ")[0] > 0.75
    assert "are better than the class frequencies" in " ".join(printed.split())


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
def test_recordings_are_downloaded_once_and_checked(run_example, tmp_path, monkeypatch):
    """From a server on this machine, with files that are too short to be read."""
    contents = {f"Subject00_{k}.edf": b"not an EDF file" for k in (1, 2)}
    sums = [f"{hashlib.sha256(c).hexdigest()} {n}" for n, c in contents.items()]
    contents["SHA256SUMS.txt"] = "\n".join(sums).encode()
    asked = []

    def get(url, *args, **kwargs):
        name = url.removeprefix("https://physionet.org/files/eegmat/1.0.0/")
        asked.append(name)
        response = requests.Response()
        response.status_code, response.raw = 200, io.BytesIO(contents[name])
        return response

    monkeypatch.setattr(requests, "get", get)
    monkeypatch.delenv("EEGMAT_PATH", raising=False)

    def start():
        with pytest.raises(ValueError, match=r"Subject00_1\.edf"):  # not an EDF file
            run_example("plot_compare_real", "--n-subjects 1", MNE_DATA=tmp_path)

    start()
    assert sorted(asked) == sorted(contents)
    asked.clear()
    start()
    assert not asked
    (tmp_path / "eegmat" / "Subject00_1.edf").write_bytes(b"spoiled")
    start()
    assert asked == ["Subject00_1.edf"]


@pytest.mark.parametrize("name", ["plot_motor_imagery", "plot_compare_real"])
def test_without_a_network_examples_say_so_and_end(
    run_example, name, tmp_path, monkeypatch
):
    def get(url, *args, **kwargs):
        raise requests.ConnectionError(url)

    monkeypatch.setattr(requests, "get", get)
    for variable in ("EEGMAT_PATH", "MNE_DATASETS_EEGBCI_PATH"):
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(SystemExit, match=r"physionet\.org cannot be reached") as told:
        run_example(name, "--n-subjects 1", MNE_DATA=tmp_path)
    assert "\n" not in str(told.value)


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
    for lr in ("0.001", "0.002"):
        assert len(numbers_of(printed, f"lr {lr}: R2 of the folds")) == 5


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
