"""The code of the page on migrating, before and after, trains alike."""

import copy
import re
import sys
import textwrap
import types
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from braindecode_sam import SAM

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "migrating.rst").read_text()
NAMED_BLOCK = r"^\.\. code-block:: \w+\n   :name: (\S+)\n((?:\n|   .*\n)+)"
BLOCKS = {
    name: textwrap.dedent(code).strip()
    for name, code in re.findall(NAMED_BLOCK, PAGE, re.MULTILINE)
}


@pytest.fixture
def others(monkeypatch):
    """Give the benchmark of other implementations."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import others

    return others


def trained_by(*names):
    """Run blocks of the page on migrating; give the trained weights."""
    namespace = {}
    for name in ("names", *names):
        exec(compile(BLOCKS[name], name, "exec"), namespace)
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


def test_pytorch_optimizer_before_and_after_train_alike():
    before = trained_by("pytorch-optimizer-before")
    torch.testing.assert_close(before, trained_by("pytorch-optimizer-after"))


def test_pytorch_optimizers_state_can_be_loaded(others):
    theirs = others.IMPLEMENTATIONS["pytorch_optimizer"]
    namespaces = [{}, {}]
    for namespace in namespaces:
        exec(BLOCKS["names"], namespace)
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
    exec(BLOCKS["skorch-after"], namespace)
    net = namespace["net"].set_params(max_epochs=1, batch_size=4, verbose=0)
    X = np.random.default_rng(0).normal(size=(20, 4, 128)).astype("float32")
    net.fit(X, X[:, 0].mean(axis=1))
    assert net.optimizer_.n_steps == 4  # a fifth of the windows is held out


@pytest.mark.full
def test_the_table_of_other_implementations_is_what_they_do(others):
    found = pd.DataFrame(others.make_table())
    path = ROOT / "benchmarks" / "results" / "others.csv"
    pd.testing.assert_frame_equal(
        found, pd.read_csv(path, keep_default_na=False), check_dtype=False
    )
