"""The code of the user guide and of the pages around it runs as it stands."""

import configparser
import copy
import doctest
import re
import runpy
import sys
import tempfile
import textwrap
import types
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

from braindecode_sam import SAM, installation

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
NAMES = ("installation", "migrating", "faq", "glossary")
PAGES = [*sorted((DOCS / "guide").glob("*.rst")), *(DOCS / f"{n}.rst" for n in NAMES)]
WITH_CODE = [page for page in PAGES if ">>> " in page.read_text()]
OPTIONS = doctest.NORMALIZE_WHITESPACE


def name_of(page):
    return page.relative_to(DOCS).with_suffix("").as_posix()


def with_marks(page):
    is_slow = page.stem in ("callbacks", "reproducing_and_resuming", "validation")
    marks = [pytest.mark.slow] if is_slow else []
    return pytest.param(page, id=name_of(page), marks=marks)


# Nets of two epochs need not have learned anything, and compare says so.
@pytest.mark.filterwarnings("ignore:no better than the dummy:UserWarning")
@pytest.mark.parametrize("page", [with_marks(page) for page in WITH_CODE])
def test_examples_of_a_page(page, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("PYTHONWARNINGS", "ignore")  # for workers
    report = []
    test = doctest.DocTestParser().get_doctest(
        page.read_text(), {}, name_of(page), str(page), 0
    )
    runner = doctest.DocTestRunner(optionflags=OPTIONS)
    failed, tried = runner.run(test, out=report.append)
    plt.close("all")
    assert tried > 0
    assert not failed, "".join(report)


def blocks_of(page):
    """Give the named blocks of code of a page."""
    text = (DOCS / f"{page}.rst").read_text()
    found = re.findall(
        r"^\.\. code-block:: \w+\n   :name: (\S+)\n((?:\n|   .*\n)+)",
        text,
        re.MULTILINE,
    )
    return {name: textwrap.dedent(code).strip() for name, code in found}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_all_python_of_a_page_is_tested(page):
    text, tests = page.read_text(), Path(__file__).read_text()
    named = [n for n, _ in re.findall(r":name: (\S+)\n\n(   )?", text)]
    assert text.count(".. code-block:: python") <= len(named)
    for name in [*named, *re.findall(r"literalinclude:: (\S+)", text)]:
        assert f'"{name}"' in tests or f"docs/guide/{name}" in tests


@pytest.mark.slow
def test_the_script_on_dask_runs(monkeypatch, capsys):
    pytest.importorskip("distributed")
    monkeypatch.setenv("PYTHONWARNINGS", "ignore")  # for workers
    monkeypatch.chdir(ROOT)
    script = runpy.run_path("docs/guide/on_dask.py")
    script["main"]()
    scores = [float(score) for score in capsys.readouterr().out.strip("[]\n").split()]
    assert len(scores) == 3
    assert np.isfinite(scores).all()


def test_the_figure_shows_a_step_of_sam():
    figure = runpy.run_path(str(DOCS / "figures" / "sam_step.py"))
    assert len(plt.gcf().axes) == 2
    plt.close("all")
    (start, perturbed), (gradient, gradient_there), end = figure["step_of_sam"]()
    direction = np.array([0.7, 2.2]) * start  # of the valley's loss
    np.testing.assert_allclose(gradient, direction, rtol=1e-12)
    epsilon = figure["RHO"] * direction / np.linalg.norm(direction)
    np.testing.assert_allclose(perturbed, start + epsilon, rtol=1e-12)
    np.testing.assert_allclose(gradient_there, np.array([0.7, 2.2]) * perturbed)
    np.testing.assert_allclose(end, start - figure["LR"] * gradient_there, rtol=1e-12)


# Coming from other implementations


@pytest.fixture
def others(monkeypatch):
    """Give the benchmark of other implementations."""
    pytest.importorskip("pytorch_optimizer", reason="the extra bench is not installed")
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    with warnings.catch_warnings():  # what it imports changes the filters
        import others
    return others


def trained_by(*names):
    """Run blocks of the page on migrating; give the trained weights."""
    namespace = {}
    for name in ("names", *names):
        exec(compile(blocks_of("migrating")[name], name, "exec"), namespace)
    return torch.cat([p.detach().flatten() for p in namespace["model"].parameters()])


def test_both_forms_after_davda54_train_alike():
    two_steps, closure = trained_by("davda54-after"), trained_by("davda54-closure")
    assert torch.equal(two_steps, closure)
    assert not torch.equal(two_steps, trained_by())


def test_davda54_before_and_after_train_alike(others, monkeypatch):
    # Its calls, answered by the textbook's implementation.
    module = types.SimpleNamespace(SAM=others.TextbookSAM)
    monkeypatch.setitem(sys.modules, "sam", module)
    torch.testing.assert_close(
        trained_by("davda54-before"), trained_by("davda54-after")
    )


@pytest.mark.usefixtures("others")
def test_pytorch_optimizer_before_and_after_train_alike():
    before = trained_by("pytorch-optimizer-before")
    torch.testing.assert_close(before, trained_by("pytorch-optimizer-after"))


def test_pytorch_optimizers_state_can_be_loaded(others):
    theirs = others.IMPLEMENTATIONS["pytorch_optimizer"]
    namespaces = [{}, {}]
    for namespace in namespaces:
        exec(blocks_of("migrating")["names"], namespace)
    (x, y), *_ = namespaces[0]["loader"]

    def train(namespace, step):
        model, optimizer = namespace["model"], namespace["optimizer"]

        def closure():
            optimizer.zero_grad()
            loss = torch.nn.functional.mse_loss(model(x), y)
            loss.backward()
            return loss

        for _ in range(3):
            step(optimizer, closure)

    for namespace, cls in zip(namespaces, (theirs.cls, SAM), strict=True):
        namespace["optimizer"] = cls(
            namespace["model"].parameters(), base_optimizer=torch.optim.AdamW, lr=0.01
        )
    before, after = namespaces
    train(before, theirs.step)
    after["model"].load_state_dict(before["model"].state_dict())
    after["optimizer"].load_state_dict(
        copy.deepcopy(before["optimizer"].state_dict())  # else they share tensors
    )
    train(before, theirs.step)
    train(after, others.by_closure)
    torch.testing.assert_close(
        list(after["model"].parameters()), list(before["model"].parameters())
    )


def test_the_net_after_a_training_step_of_ones_own():
    namespace = {"torch": torch}
    exec(blocks_of("migrating")["skorch-after"], namespace)
    net = namespace["net"].set_params(max_epochs=1, batch_size=4, verbose=0)
    X = np.random.default_rng(0).normal(size=(20, 4, 128)).astype("float32")
    net.fit(X, X[:, 0].mean(axis=1))
    assert net.optimizer_.n_steps == 4  # a fifth of the windows is held out


def test_the_table_of_other_implementations_is_what_they_do(others):
    found = pd.DataFrame(others.make_table())
    path = ROOT / "benchmarks" / "results" / "others.csv"
    pd.testing.assert_frame_equal(
        found, pd.read_csv(path, keep_default_na=False), check_dtype=False
    )


# What the page on installation shows


def test_the_report_shown_has_the_lines_of_a_real_one():
    shown = blocks_of("installation")["report"]
    real, fits = installation.report()
    assert fits

    def names(text):
        return [line.split()[0] for line in text.splitlines() if line]

    is_device = re.compile(r"(cuda|rocm|mps)\b.*:")
    expected = [n for n in names(real) if not is_device.match(n)]
    assert names(shown) == [n for n in expected if not n.startswith("HSA_")]


def test_the_advice_shown_is_that_of_the_package():
    shown = " ".join(blocks_of("installation")["advice"].split())
    assert shown == installation.ADVICE


def test_all_extras_are_in_the_table():
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    text = (DOCS / "installation.rst").read_text()
    listed = re.findall(r"^   \* - ``(\w+)``$", text, re.MULTILINE)
    assert sorted(listed) == sorted(settings["options.extras_require"])
