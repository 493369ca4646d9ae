"""The examples run, as scripts and as notebooks, and print what they promise."""

import importlib.util
import json
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import mne
import pytest

ROOT = Path(__file__).resolve().parents[1]
ALONE = ("--n-jobs", 1)  # workers take seconds to start


def run(*arguments, status=0, cwd=ROOT, **environment):
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        env=os.environ | {name: str(value) for name, value in environment.items()},
    )
    assert done.returncode == status, done.stderr
    return done.stderr if status else done.stdout


@pytest.fixture(scope="module")
def runner():
    spec = importlib.util.spec_from_file_location("runner", ROOT / "examples/run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def run_example(runner, monkeypatch, capsys):
    """Run an example in this process, without the seconds of another one's imports."""
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])

    def run_example(name, *options, **environment):
        for variable, value in environment.items():
            monkeypatch.setenv(variable, str(value))
        monkeypatch.setattr(sys, "argv", ["run.py", name, *map(str, options)])
        with warnings.catch_warnings(), mne.use_log_level("info"):
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
    return [float(number) for number in re.findall(r"-?\d+\.?\d*(?:e-?\d+)?", rest)]


def check_sentence(printed, name="SAM", reference="AdamW"):
    """Look for what ``Comparison.sentences`` says of a model."""
    text = " ".join(printed.split())
    pattern = rf"{name} has a [\w ]+ of [\d.]+ against [\d.]+ with {reference}: a diff"
    assert re.search(pattern, text)


@pytest.mark.slow
def test_quick_start(run_example):
    options = ["--n-subjects", 6, "--n-trials", 6, "--n-epochs", 1]
    printed = run_example("plot_quick_start", *options)
    for name in ("AdamW", "SAM", "dummy"):
        assert len(numbers_of(printed, f"{name}  ")) == 3  # in the table
    check_sentence(printed)


@pytest.mark.slow
def test_why_sam(run_example):
    options = ["--n-subjects", 4, "--n-epochs", 2, "--n-seeds", 2, "--n-directions", 1]
    printed = run_example("plot_why_sam", *options)
    for optimizer in ("AdamW", "SAM"):
        assert f"{optimizer}, seeds 0 to 1:" in printed
        for kind in ("Random", "Filter-normalized"):
            start = f"{kind} directions, {optimizer}: the loss rises by "
            assert len(numbers_of(printed, start)) == 1
    assert printed.count("sharpness [") == 2


@pytest.mark.slow
def test_choose_rho(run_example):
    options = ["--n-subjects", 6, "--n-trials", 8, "--n-epochs", 1, "--rhos", 0, 0.1]
    printed = run_example("plot_choose_rho", *options)
    chosen = numbers_of(printed, "chosen rho: [")
    assert len(chosen) == 3
    assert set(chosen) <= {0.0, 0.1}
    scores = [numbers_of(printed, f"{n}: NRMSE ") for n in ("AdamW", "chosen rho")]
    if chosen == [0.0] * 3:
        assert scores[0] == scores[1]
    assert "normalized squared error, difference: " in printed


@pytest.mark.slow
def test_the_leak(run_example):
    printed = run_example("plot_the_leak")
    for model in ("nearest neighbors", "mean predictor"):
        for folds in ("windows", "subjects"):
            words = [*model.split(), folds]
            assert any(line.split()[:-2] == words for line in printed.splitlines())
    leaky, honest = numbers_of(printed, "NRMSE, folds of windows")
    assert leaky < 0.7 < 1 < honest
    (by_range,) = numbers_of(printed, "The mean predictor scores")
    assert 0.2 < by_range < 0.35


@pytest.mark.slow
def test_early_stopping(run_example):
    options = ["--n-subjects", 8, "--n-trials", 6, "--n-epochs", 4, "--patience", 2]
    printed = run_example("plot_early_stopping", *options, "--n-epochs-to-resume", 2)
    for optimizer in ("AdamW", "SAM"):
        n_epochs, best, accuracy = numbers_of(printed, f"{optimizer}:")
        assert 1 <= best <= n_epochs <= 4
        assert 0 <= accuracy <= 1
    assert "Training ended with: power cut" in printed
    assert "weights are equal: True" in printed


@pytest.mark.slow
def test_compare(run_example, tmp_path):
    page = tmp_path / "report.html"
    options = ["--n-subjects", 6, "--n-trials", 8, "--n-epochs", 1, "--n-seeds", 1]
    printed = run_example("plot_compare", *options, *ALONE, "--report", page)
    for estimator in ("AdamW", "SAM", "dummy"):
        assert len(numbers_of(printed, f"{estimator}  ")) == 5  # in the table
    check_sentence(printed)
    assert "Holm correction" in page.read_text()


@pytest.mark.slow
def test_real_eeg(run_example, eegmat):
    options = ["--n-subjects", 10, "--n-epochs", 1]
    printed = run_example("plot_real_eeg", *options, *ALONE, EEGMAT_PATH=eegmat)
    assert "150 windows of 10 subjects, 19 x 500" in printed
    for name in ("AdamW", "SAM", "mean predictor"):
        by_std, by_range = numbers_of(printed, f"{name}  ")
        assert by_range < by_std
    for name in ("AdamW", "SAM"):
        assert re.search(
            rf"{name} against the mean: .*: (better|worse|undecided)", printed
        )
    check_sentence(printed)


@pytest.mark.slow
def test_compare_real(run_example, tmp_path, eegmat):
    page = tmp_path / "report.html"
    options = ["--n-subjects", 6, "--n-epochs", 1, "--report", page]
    printed = run_example("plot_compare_real", *options, *ALONE, EEGMAT_PATH=eegmat)
    assert "180 windows of 6 subjects, 19 x 500" in printed
    for unit in ("windows", "recordings"):
        assert unit in printed.splitlines()
    check_sentence(printed)
    assert "SAM has a log loss of" in page.read_text()


@pytest.mark.slow
def test_response_times(eeglab):
    options = ["plot_response_times", "--n-epochs", 1, "--n-seeds", 1, *ALONE]
    printed = run("examples/run.py", *options, EEGLAB_SAMPLE=eeglab)  # it sets up logs
    assert "eeglab_data.set: kept 74 of 80 trials; left out 6 without" in printed
    assert str(eeglab.parent) not in printed
    assert "74 trials, 30 x 128" in printed
    for pair in ("AdamW against the mean", "SAM against the mean", "SAM against AdamW"):
        assert re.search(rf"{pair}: .*: (better|worse|undecided)", printed)


@pytest.mark.slow
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


@pytest.mark.slow
def test_from_bids(run_example, tmp_path):
    pytest.importorskip("pybv", reason="the extra bids is not installed")
    options = ["--n-subjects", 5, "--n-trials", 8, "--n-epochs", 1]
    printed = run_example("plot_from_bids", *options, *ALONE, "--folder", tmp_path)
    assert "40 windows of 5 subjects, 129 x 200" in printed
    check_sentence(printed)
    events = next(tmp_path.glob("sub-001/eeg/*_events.tsv")).read_text()
    assert "left_target" in events
    assert "right_buttonPress" in events


@pytest.mark.slow
def test_speed_up(run_example):
    options = ["--n-chans", 8, "--n-times", 250, "--batch-size", 4, "--n-steps", 1]
    printed = run_example("plot_speed_up", *options)
    (difference,) = numbers_of(printed, "relative difference of the gradients: ")
    assert difference < 1e-4
    assert "as it was: ['0']" in printed
    for model in ("ShallowFBCSPNet", "EEGNet", "ATCNet"):
        for optimizer in ("AdamW", "SAM"):
            assert re.search(rf"{model}, +{optimizer}: ", printed)


@pytest.mark.slow
def test_sam_for_free(run_example):
    options = ["--n-subjects", 4, "--n-trials", 4, "--batch-size", 8]
    options += ["--n-epochs", 1, "--n-steps", 1]
    printed = run_example("plot_sam_for_free", *options)
    for what in ("outputs", "gradients"):
        assert numbers_of(printed, f"largest difference of {what}:")[0] < 1e-9
    assert printed.count("autograd keeps") == 4
    losses = [
        numbers_of(printed, f"{model}, AdamW: training loss ")[0]
        for model in ("EEGNeX", "FastEEGNeX")
    ]
    assert losses[0] == pytest.approx(losses[1], abs=0.01)


@pytest.mark.slow
def test_challenge_1(run_example):
    options = ["--n-subjects", 10, "--n-trials", 4, "--n-epochs", 1]
    printed = run_example("plot_challenge_1", *options, *ALONE)
    assert "40 trials of 10 subjects, 72 x 500" in printed
    by_std, by_range = printed.split("NRMSE, lower is better")[1].split("by range")
    for part in (by_std, by_range):
        for row in ("fold 1", "fold 5", "mean", "pooled"):
            assert len(numbers_of(part, row)) == 3
    check_sentence(printed)


@pytest.mark.slow
def test_challenge_2(run_example):
    options = ["--n-subjects", 10, "--n-trials", 2, "--n-epochs", 1]
    printed = run_example("plot_challenge_2", *options, *ALONE)
    assert "X (20, 104, 1000), y (20, 8)" in printed
    assert "Training on " in printed
    for name in ("Adamax", "SAM", "mean predictor"):
        assert numbers_of(printed, f"{name}:")[0] > 0.35
    assert numbers_of(printed, "lower bound:") == [0.35]
    check_sentence(printed, reference="Adamax")


@pytest.mark.slow
def test_callbacks(run_example):
    options = ["--n-subjects", 6, "--n-trials", 6, "--n-epochs", 3]
    printed = run_example("plot_callbacks", *options)
    for name in ("AdamW", "constant", "late", "cosine", "SAM-ON"):
        assert len(numbers_of(printed, f"{name}: training loss ")) == 2
    first, last = numbers_of(printed, "learning rate:")
    assert first > last


@pytest.mark.slow
def test_migrating():
    printed = run("examples/plot_migrating.py")  # by itself
    assert "same weights: True" in printed
    assert "5 steps, BatchNorm has seen 5 batches" in printed
    assert "state of a weight: momentum_buffer" in printed
    for name in ("AdamW", "SAM"):
        assert len(numbers_of(printed, f"{name}:")) == 2


@pytest.mark.slow
def test_on_a_cluster():
    pytest.importorskip("distributed", reason="the extra distributed is not installed")
    options = ["--n-trials", 4, "--n-epochs", 2]
    printed = run("examples/run.py", "plot_on_a_cluster", *options)
    assert "killing a worker" in printed
    assert printed.count("the same bit for bit") == 4
    for rho in ("0.0", "0.1"):
        assert len(numbers_of(printed, f"rho {rho}: R2 of the folds")) == 5


# Downloaded notebooks: as sphinx-gallery converts them, in a kernel.
TO_NOTEBOOK = """
import sys
from sphinx_gallery.notebook import python_to_jupyter_cli
python_to_jupyter_cli(sys.argv[1:])
"""
EXECUTE = """
import sys
import nbformat
from nbclient import NotebookClient
notebook = nbformat.read(sys.argv[1], as_version=4)
NotebookClient(notebook, timeout=600, kernel_name="python3").execute()
nbformat.write(notebook, sys.argv[1])
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "sizes", "promised"),
    [
        (
            "plot_quick_start",
            {"N_SUBJECTS": 6, "N_TRIALS": 6, "N_EPOCHS": 1},
            ["SAM has a log loss of"],
        ),
        (
            "plot_on_a_cluster",
            {"N_SUBJECTS": 10, "N_TRIALS": 4, "N_EPOCHS": 1},
            ["pearsonr: the same bit for bit"],
        ),
    ],
)
def test_notebooks(tmp_path, name, sizes, promised):
    script = (ROOT / "examples" / f"{name}.py").read_text()
    for constant, size in sizes.items():
        pattern = rf"^{constant} = \d+"
        script, n = re.subn(pattern, f"{constant} = {size}", script, flags=re.MULTILINE)
        assert n == 1
    (tmp_path / f"{name}.py").write_text(script)
    notebook = tmp_path / f"{name}.ipynb"
    run("-c", TO_NOTEBOOK, tmp_path / f"{name}.py")
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    run("-c", EXECUTE, notebook, cwd=tmp_path, PYTHONPATH=path)
    cells = json.loads(notebook.read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert all(cell["execution_count"] for cell in code)
    outputs = [output for cell in code for output in cell["outputs"]]
    printed = "".join("".join(output.get("text", "")) for output in outputs)
    for text in promised:
        assert text in printed


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
    parser = runner.make_parser("plot_script", runner.ast.parse(SCRIPT))
    assert parser.description == "What it does."
    values = vars(parser.parse_args([]))
    expected = {"N_EPOCHS": 3, "RATE": 0.5, "NAMES": ["a", "b"], "FOLDER": ""}
    assert values == expected
    options = ["--n-epochs", "4", "--names", "c", "d", "e", "--folder", "it's"]
    values = vars(parser.parse_args(options))
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])
    monkeypatch.setattr(sys, "argv", ["run.py"])
    runner.run(path, values)
    printed = capsys.readouterr().out
    assert printed == ("4 0.5 ['c', 'd', 'e'] it's ['a', 1] 8 2 4 __main__\n")


def test_options_have_the_type_of_the_constant(runner, capsys):
    parser = runner.make_parser("plot_script", runner.ast.parse(SCRIPT))
    with pytest.raises(SystemExit):
        parser.parse_args(["--n-epochs", "many"])
    assert "argument --n-epochs: invalid int value: 'many'" in capsys.readouterr().err


def test_help_lists_the_constants():
    printed = run("examples/run.py", "plot_choose_rho", "--help")
    assert "usage: run.py plot_choose_rho " in printed
    assert "Rho, the radius of SAM, is chosen" in printed
    assert re.search(r"--n-subjects N_SUBJECTS\s+default: 12", printed)
    assert re.search(r"--rhos RHOS.*\n\s+default: 0.0 0.05 0.1 0.2", printed)
    assert "plot_choose_rho" in run("examples/run.py", "--help")
    assert "invalid choice: 'plot_x'" in run("examples/run.py", "plot_x", status=2)


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
