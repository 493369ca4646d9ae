"""Figures: what is drawn, where, and that nothing is shown."""

import itertools

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from skorch.history import History

from braindecode_sam.visualization import (
    plot_history,
    plot_paired_losses,
    plot_score_by_epoch,
)


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


def make_history(**columns):
    history = History()
    for values in zip(*columns.values(), strict=True):
        history.new_epoch()
        for name, value in zip(columns, values, strict=True):
            history.record(name, value)
    return history


def lines(ax):
    return {line.get_label(): list(line.get_ydata()) for line in ax.lines}


def visible_x_labels(axes):
    return [ax.get_xlabel() for ax in axes if ax.xaxis.get_tick_params()["labelbottom"]]


def test_history():
    columns = {"train_loss": [3, 2], "valid_loss": [4, 3], "sharpness": [0.5, 0.2]}
    figure = plot_history(make_history(**columns, rho=[0.0, 0.05]))
    above, middle, below = figure.axes
    assert lines(above) == {"training": [3, 2], "validation": [4, 3]}
    assert lines(middle) == {"sharpness": [0.5, 0.2]}
    assert lines(below) == {"rho": [0.0, 0.05]}
    labels = [ax.get_ylabel() for ax in figure.axes]
    assert labels == ["Loss", "Sharpness (loss)", "rho (weights)"]
    assert visible_x_labels(figure.axes) == ["Epoch"]
    labels = [text.get_text() for text in above.get_legend().get_texts()]
    assert labels == ["training", "validation"]
    constant = plot_history(make_history(**columns, rho=[0.05, 0.05]))
    assert [ax.get_ylabel() for ax in constant.axes] == ["Loss", "Sharpness (loss)"]


def test_history_without_validation_and_sam_on_given_axes():
    figure, axes = plt.subplots(1, 2)
    before = axes[1].get_position().bounds
    assert plot_history(make_history(train_loss=[1.0]), ax=axes[1]) is figure
    assert not axes[0].lines
    assert lines(axes[1]) == {"training": [1.0]}
    assert len(figure.axes) == 2
    assert axes[1].get_position().bounds == before


@pytest.mark.parametrize("layout", ["constrained", None])
def test_panels_stay_in_the_space_of_the_axes(layout):
    figure = plt.figure(layout=layout)
    if layout is None:
        ax = figure.add_axes((0.1, 0.2, 0.3, 0.6))
        x0, y0, x1, y1 = 0.1, 0.2, 0.4, 0.8
    else:
        other = figure.add_subplot(1, 2, 2)
        ax = figure.add_subplot(1, 2, 1)
        x0, y0, x1, y1 = 0, 0, 0.55, 1
    history = make_history(train_loss=[2.0, 1.0], sharpness=[0.1, 0.2], rho=[0.1, 0.0])
    plot_history(history, ax=ax)
    figure.canvas.draw()
    panels = [ax, *figure.axes[-2:]]
    boxes = [panel.get_position() for panel in panels]
    for above, below in itertools.pairwise(boxes):
        assert above.y0 >= below.y1
    for box in boxes:
        assert x0 - 1e-6 <= box.x0 < box.x1 <= x1 + 1e-6
        assert y0 - 1e-6 <= box.y0 < box.y1 <= y1 + 1e-6
    assert len({panel.get_xlim() for panel in panels}) == 1
    if layout is not None:
        assert not other.lines


def test_nothing_is_shown_and_nothing_drawn_of_an_empty_history(monkeypatch):
    monkeypatch.setattr(plt, "show", lambda: pytest.fail("plt.show was called"))
    plot_history(make_history(train_loss=[1.0]))
    with pytest.raises(ValueError, match="the history is empty; fit the net first"):
        plot_history(History())


def test_paired_losses():
    rng, names = np.random.default_rng(0), ["AdamW", "SAM 0", "SAM 1", "dummy"]
    losses = pd.DataFrame(rng.uniform(size=(5, 4)), columns=names)
    comparisons = pd.DataFrame(
        {
            "difference": losses.mean()[1:] - losses["AdamW"].mean(),
            "ci_low": -0.1,
            "ci_high": 0.1,
            "p_holm": [0.01, 1.0, 1.0],
        }
    )
    figure = plot_paired_losses(losses, comparisons, loss="log loss", dummy="dummy")
    first, second, differences = figure.axes
    for ax, name in ((first, "SAM 0"), (second, "SAM 1")):
        *subjects, mean, dummy = ax.lines
        for line, (before, after) in zip(
            subjects, losses[["AdamW", name]].to_numpy(), strict=True
        ):
            assert list(line.get_ydata()) == [before, after]
            assert line.get_color() == ("C0" if after < before else "C1")
        expected = losses[["AdamW", name]].mean()
        np.testing.assert_allclose(mean.get_ydata(), expected)
        assert dummy.get_ydata()[0] == losses["dummy"].mean()
    assert first.get_ylabel() == "log loss\nof each subject"
    labels = [text.get_text() for text in differences.get_yticklabels()]
    assert labels == ["SAM 1", "SAM 0"]  # the first at the top, no dummy
    circles = [line for line in differences.lines if line.get_marker() == "o"]
    faces = [line.get_markerfacecolor() for line in circles]
    assert faces[0] == "w"  # not significant
    assert faces[1] != "w"
    found = [line.get_xdata()[0] for line in circles]
    np.testing.assert_allclose(found, comparisons["difference"].iloc[[1, 0]])


def test_scores_by_epoch():
    curves = pd.DataFrame(
        {
            "estimator": np.repeat(["AdamW", "SAM"], 3),
            "epoch": [1, 2, 3] * 2,
            "loss": np.arange(6.0),
            "loss_low": 0.0,
            "loss_high": 9.0,
        }
    )
    ax = plt.subplots()[1]
    figure = plot_score_by_epoch(curves, loss="log loss", dummy=0.7, ax=ax)
    assert figure is ax.figure
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == ["AdamW", "SAM", "dummy predictor"]
    assert ax.lines[1].get_ydata().tolist() == [3, 4, 5]
    assert len(ax.collections) == 2  # intervals
    many = pd.concat([curves, curves.replace({"AdamW": "EMA", "SAM": "_SWA"})])
    ax = plot_score_by_epoch(many).axes[0]
    assert len(ax.collections) == 0
    assert len(ax.get_legend().get_texts()) == 4  # also "_SWA"
