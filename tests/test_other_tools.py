"""The page about other tools runs, and its results equal independent ones."""

import doctest
import logging
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from braindecode.models import EEGNeX
from sklearn.base import clone
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, LeaveOneGroupOut, cross_val_score

from braindecode_sam import SAM, FastEEGNeX, make_classifier
from braindecode_sam.nets import stock_model

PAGE = Path(__file__).resolve().parents[1] / "docs" / "guide" / "other_tools.rst"
BEFORE, *SECTIONS = re.split(r"\n(?=[^\n]+\n-{4,}\n)", PAGE.read_text())
TEXTS = {text.strip().splitlines()[0]: text for text in SECTIONS}
NEEDS = {
    "MOABB": ["moabb"],
    "eegdash": ["eegdash", "mne_bids", "pybv"],
    "Lightning": ["lightning"],
    "accelerate": ["accelerate"],
    "Optuna": ["optuna", "optuna_integration"],
    "The Hugging Face Hub": ["huggingface_hub"],
    "captum": ["captum"],
    "ONNX": ["onnxscript", "onnxruntime"],
    "TensorBoard": ["tensorboard"],
    "Weights & Biases": ["wandb"],
}
pytestmark = [
    pytest.mark.full,
    # Those tools warn of what they use themselves.
    pytest.mark.filterwarnings("ignore"),
]


class Checker(doctest.OutputChecker):
    """Ignores what a tool prints where the page shows nothing."""

    def check_output(self, want, got, optionflags):
        return not want or super().check_output(want, got, optionflags)


@pytest.fixture
def page(tmp_path, monkeypatch):
    """Run a section after what the page begins with, and return its names."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level

    def run(title):
        for name in NEEDS[title]:
            pytest.importorskip(name)
        root.handlers = handlers  # eegdash replaces them when it is imported
        globs = {"__name__": "__main__"}  # braindecode keeps the module of a function
        test = doctest.DocTestParser().get_doctest(
            f"{BEFORE}\n{TEXTS[title]}", globs, title, str(PAGE), 0
        )
        report = []
        runner = doctest.DocTestRunner(
            Checker(), optionflags=doctest.NORMALIZE_WHITESPACE
        )
        failed, _ = runner.run(test, out=report.append, clear_globs=False)
        assert not failed, "".join(report)
        return test.globs

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name in ("HOME", "MNE_DATA", "_MNE_FAKE_HOME_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("WANDB_MODE", "offline")
    yield run
    root.handlers, root.level = handlers, level


def train(model, batches, n_epochs=1):
    """Train by SAM in a plain loop."""
    optimizer = SAM(model.parameters(), torch.optim.AdamW, rho=0.1, lr=1e-3)
    for _ in range(n_epochs):
        for x, y in batches:

            def closure(x=x, y=y):
                optimizer.zero_grad()
                loss = torch.nn.functional.cross_entropy(model(x), y)
                loss.backward()
                return loss

            optimizer.step(closure)
    return model


def assert_same_weights(model, other):
    state, expected = model.state_dict(), other.state_dict()
    assert state.keys() == expected.keys()
    for name, value in state.items():
        assert torch.equal(value, expected[name]), name


def test_each_section_is_tested():
    assert list(TEXTS) == list(NEEDS)


def test_moabb(page):
    names = page("MOABB")
    net, table, windows = names["net"], names["table"], names["windows"]
    labels, folds = names["labels"], {}
    subjects, sessions = (table[n].to_numpy() for n in ("subject", "session"))
    for train_rows, test in LeaveOneGroupOut().split(windows, labels, subjects):
        fitted = clone(net).fit(windows[train_rows], labels[train_rows])
        for session in np.unique(sessions[test]):
            rows = test[sessions[test] == session]
            score = roc_auc_score(
                labels[rows] == "right_hand", fitted.predict_proba(windows[rows])[:, 1]
            )
            folds[str(subjects[rows[0]]), session] = score
    results = names["tables"][names["CrossSubjectEvaluation"]]
    found = results.set_index(["subject", "session"])["score"].to_dict()
    assert found == pytest.approx(folds)
    # Stored models are of these folds.
    files = list((names["folder"] / "Models_CrossSubject").rglob("*.pkl"))
    assert len(files) == 3
    one = joblib.load(files[0])
    assert one.predict_proba(windows[:2]).shape == (2, 2)

    def evaluate(estimator, **options):
        evaluation = names["CrossSubjectEvaluation"](
            paradigm=names["LeftRightImagery"](), datasets=[names["dataset"]],
            hdf5_path=names["folder"], random_state=0, **options,
        )  # fmt: skip
        return evaluation.process({"net": estimator})["score"].tolist()

    # A pipeline in YAML, epochs in volts, and two processes.
    assert evaluate(names["found"]["pipeline"]) == evaluate(
        make_classifier(optimizer__rho=0.1, **names["options"])
    )
    for options in ({"return_epochs": True}, {"n_jobs": 2}):
        other = evaluate(clone(net), suffix="other", overwrite=True, **options)
        assert other == pytest.approx(results["score"].tolist())


def test_moabb_finds_a_net_again_and_no_other_one(tmp_path):
    pytest.importorskip("moabb")
    script = """
from moabb.analysis.results import get_pipeline_digest
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from skorch.callbacks import EarlyStopping
from braindecode_sam import make_classifier
for patience in (1, 2):
    net = make_classifier(
        device="cpu", random_state=0, callbacks=[EarlyStopping(patience=patience)]
    )
    for one in (net, make_pipeline(net)):
        print("digest", get_pipeline_digest(FunctionTransformer(), one))
"""
    found = []
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", script],
            env={"PYTHONHASHSEED": seed, "HOME": str(tmp_path), "PATH": ""},
            check=True, text=True, capture_output=True,
        )  # fmt: skip
        found.append(re.findall("digest (.*)", done.stdout))
    assert found[0] == found[1]
    assert len(set(found[0])) == 4


def test_eegdash(page):
    names = page("eegdash")
    signals = 1e6 * names["signals"]
    for i, onset in enumerate((500, 1500, 2500)):
        expected = signals[:, onset : onset + 200]
        # BrainVision files hold tenths of a microvolt.
        np.testing.assert_allclose(names["windows"][i], expected, atol=0.06)
    assert names["people"].tolist() == ["01"] * 3 + ["02"] * 3
    volts = names["EEGDashDataset"](
        cache_dir=names["folder"], dataset="mine", task="go", download=False
    )
    cut = names["response_time_windows"](
        volts, stimulus="go", response="press", window_seconds=2
    )
    with pytest.warns(UserWarning, match="like EEG in volts"):
        names["to_arrays"](cut)


def test_lightning(page):
    names = page("Lightning")
    lightning, loader, quiet = (names[n] for n in ("lightning", "loader", "quiet"))

    torch.manual_seed(0)
    plain = train(FastEEGNeX(n_chans=8, n_times=128, n_outputs=2), loader, 2)
    assert_same_weights(names["decoder"].model, plain)
    losses = []

    class Logged(names["Decoder"]):
        def training_step(self, batch, batch_idx):
            losses.append(super().training_step(batch, batch_idx))
            self.log("loss", losses[-1], on_step=True, on_epoch=True)
            return losses[-1]

    trainer = lightning.Trainer(**quiet | {"max_epochs": 1})
    trainer.fit(Logged(), loader)
    found = trainer.callback_metrics
    assert len(losses) == 2 * len(loader)
    assert found["loss_step"] == losses[-1]
    assert found["loss_epoch"].item() == pytest.approx(
        torch.stack(losses).mean().item()
    )
    # Training that resumes.
    file = names["folder"] / "half.ckpt"
    torch.manual_seed(0)
    half = lightning.Trainer(**quiet | {"max_epochs": 1})
    half.fit(names["Decoder"](), loader)
    half.save_checkpoint(file)
    state = torch.get_rng_state()  # which Lightning does not save
    rest = names["Decoder"]()
    torch.set_rng_state(state)
    lightning.Trainer(**quiet).fit(rest, loader, ckpt_path=file)
    assert_same_weights(rest.model, names["decoder"].model)


def test_accelerate(page):
    names = page("accelerate")
    torch.manual_seed(0)
    model = FastEEGNeX(n_chans=8, n_times=128, n_outputs=2)
    batch = torch.tensor(names["X"]), torch.tensor(names["y"])
    assert_same_weights(names["fast"], train(model, [batch]))
    # What the page warns of.
    state = pytest.importorskip("accelerate.state")
    state.AcceleratorState._reset_state(True)
    accelerator = names["Accelerator"](cpu=True, gradient_accumulation_steps=2)
    model, optimizer = accelerator.prepare(model, SAM(model.parameters()))
    passes = []
    for i in range(4):

        def closure(i=i):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(batch[0]), batch[1])
            accelerator.backward(loss)
            passes.append(i)
            return loss

        with accelerator.accumulate(model):
            optimizer.step(closure)
    state.AcceleratorState._reset_state(True)
    assert passes == [1, 1, 3, 3]


def test_optuna(page):
    names = page("Optuna")
    best = names["study"].best_trial
    net = make_classifier(optimizer__rho=best.params["rho"], **names["options"])
    scores = cross_val_score(
        net, names["X"], names["y"], groups=names["subjects"], cv=GroupKFold(2),
        scoring="neg_log_loss",
    )  # fmt: skip
    assert best.value == pytest.approx(scores.mean())
    (trial,) = names["hopeless"].trials
    assert list(trial.intermediate_values) == [0]  # its first epoch


def test_the_hub(page, monkeypatch):
    names = page("The Hugging Face Hub")
    huggingface_hub = pytest.importorskip("huggingface_hub")
    assert type(names["stock"]) is EEGNeX
    assert type(names["fast"]) is FastEEGNeX
    for model in (names["stock"], names["fast"]):
        assert_same_weights(model, names["model"])

    class Repository:
        repo_id = "name/model"

    uploaded = names["folder"] / "uploaded"

    def upload(self, *, folder_path, **options):
        uploaded.mkdir()
        for file in Path(folder_path).iterdir():
            (uploaded / file.name).write_bytes(file.read_bytes())

    api = huggingface_hub.HfApi
    monkeypatch.setattr(api, "create_repo", lambda *args, **options: Repository)
    monkeypatch.setattr(api, "upload_folder", upload)
    names["model"].push_to_hub("name/model")
    assert_same_weights(EEGNeX.from_pretrained(uploaded), names["model"])


def test_captum(page):
    names = page("captum")
    captum = pytest.importorskip("captum.attr")
    model, x = names["model"], names["x"]
    # Attributions add up to the change of the output.
    stock = stock_model(names["net"])
    total = names["fast"].sum((1, 2))
    change = stock(x)[:, 1] - stock(torch.zeros_like(x))[:, 1]
    torch.testing.assert_close(total, change, rtol=0, atol=0.02, check_dtype=False)
    for method in (captum.Saliency, captum.GuidedBackprop):
        fast, expected = (
            method(m).attribute(x.clone(), target=1) for m in (model, stock)
        )
        largest = expected.abs().max().item()
        torch.testing.assert_close(fast, expected, rtol=0, atol=1e-4 * largest)
    # What the page warns of.
    for m in (model, stock):
        with pytest.raises(TypeError, match="has no rule defined"):
            captum.LRP(m).attribute(x.clone(), target=1)


def test_onnx(page):
    names = page("ONNX")
    stock = stock_model(names["net"])
    for n in (7, 1):
        windows = names["X"][:n]
        (outputs,) = names["session"].run(None, {"x": windows})
        expected = stock(torch.tensor(windows)).detach().numpy()
        np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-6)
    probabilities = torch.softmax(torch.tensor(outputs), 1).numpy()
    found = names["net"].predict_proba(windows)
    np.testing.assert_allclose(probabilities, found, rtol=1e-4)
    assert [path.name for path in names["folder"].iterdir()] == ["model.onnx"]


def test_tensorboard(page):
    names = page("TensorBoard")
    events = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    )
    found = events.EventAccumulator(str(names["folder"] / "runs")).Reload()
    history = names["logged"].history
    for name, tag in {"train_loss": "Loss/train_loss", "rho": "rho"}.items():
        values = [scalar.value for scalar in found.Scalars(tag)]
        assert values == pytest.approx(history[:, name])
    assert {"sharpness", "grad_norm"} <= set(found.Tags()["scalars"])


def test_wandb(page):
    names = page("Weights & Biases")
    history = names["logged"].history
    for name in ("train_loss", "sharpness", "grad_norm", "rho"):
        assert names["last"][name] == pytest.approx(history[-1, name])
    assert list((names["folder"] / "wandb").glob("offline-run-*/*.wandb"))
