"""Figure of a training: what is drawn, where, and that nothing is shown."""

import itertools

import matplotlib.pyplot as plt
import pytest
from skorch.history import History

from braindecode_sam.visualization import plot_history


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
