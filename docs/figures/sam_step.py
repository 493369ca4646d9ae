"""Draw a step of SAM on a loss with two weights, and what it minimizes."""

import matplotlib.pyplot as plt
import numpy as np
import torch

from braindecode_sam import SAM

W, RHO, LR = (-1.35, 0.75), 0.55, 0.28
BLUE, ORANGE, GREEN, GREY = "#1f77b4", "#d95f02", "#1b7837", "#555555"


def valley(w):
    """Return the loss of two weights: a valley that is steep along one of them."""
    return 0.35 * w[0] ** 2 + 1.1 * w[1] ** 2


def step_of_sam():
    """Make one step; return the weights in each pass, each gradient and the result."""
    w = torch.nn.Parameter(torch.tensor(W, dtype=torch.float64))
    optimizer = SAM([w], torch.optim.SGD, rho=RHO, lr=LR)
    seen, gradients = [], []

    def closure():
        optimizer.zero_grad()
        loss = valley(w)
        loss.backward()
        seen.append(w.detach().numpy().copy())
        gradients.append(w.grad.numpy().copy())
        return loss

    optimizer.step(closure)
    return seen, gradients, w.detach().numpy()


def draw_step(ax):
    """Draw the step over the contours of the loss."""
    (start, perturbed), (gradient, gradient_there), end = step_of_sam()
    x, y = np.meshgrid(np.linspace(-2.3, 0.6, 200), np.linspace(-0.6, 1.55, 200))
    ax.contour(x, y, valley((x, y)), levels=14, colors="0.75", linewidths=0.8)
    ax.add_patch(plt.Circle(start, RHO, fill=False, ls=":", color=GREY))
    arrows = (
        (start, perturbed, ORANGE, "-"),
        (start, start - LR * gradient, BLUE, "--"),
        (start, end, GREEN, "-"),
        (perturbed, perturbed - LR * gradient_there, GREEN, ":"),
    )
    for tail, head, color, style in arrows:
        ax.annotate(
            "", head, tail,
            arrowprops={"arrowstyle": "-|>", "color": color, "ls": style, "lw": 2,
                        "shrinkA": 0, "shrinkB": 0, "mutation_scale": 16},
        )  # fmt: skip
    ax.plot(*np.transpose([start, perturbed]), "o", color="black", ms=5)
    ax.plot(0, 0, "+", color="black", ms=10)
    text = {"fontsize": 11}
    ax.text(start[0] - 0.08, start[1] - 0.02, "w", ha="right", va="top", **text)
    ax.text(perturbed[0] - 0.08, perturbed[1] + 0.06, "w + ε", ha="right", **text)
    ax.text(start[0] - 0.38, start[1] + 0.22, "1", color=ORANGE, **text)
    ax.text(perturbed[0] + 0.22, perturbed[1] - 0.2, "2", color=GREEN, **text)
    ax.text(end[0] + 0.04, end[1] - 0.06, "3: SAM", color=GREEN, va="top", **text)
    plain = start - LR * gradient
    ax.text(plain[0] + 0.06, plain[1] + 0.03, "plain", color=BLUE, **text)
    ax.text(0.06, 0.06, "minimum", fontsize=9)
    ax.set(xticks=[], yticks=[], aspect="equal", title="One step")
    ax.set(xlabel="one weight", ylabel="another weight")


def draw_minima(ax):
    """Draw a loss with two minima, and the highest loss within rho of each point."""
    w = np.linspace(-2.2, 2.6, 2001)
    loss = 1 - 0.95 * np.exp(-(((w + 1.1) / 0.22) ** 2))
    loss -= 0.85 * np.exp(-(((w - 1) / 0.8) ** 2))
    reach = round(0.3 / (w[1] - w[0]))
    around = np.lib.stride_tricks.sliding_window_view(
        np.pad(loss, reach, mode="edge"), 2 * reach + 1
    )
    worst = around.max(axis=1)
    ax.plot(w, loss, color=BLUE, lw=2, label="loss at w")
    ax.plot(w, worst, color=ORANGE, lw=2, ls="--", label="highest loss within rho")
    for values, color in ((loss, BLUE), (worst, ORANGE)):
        lowest = values.argmin()
        ax.plot(w[lowest], values[lowest], "o", color=color, ms=8)
    ax.text(-1.1, -0.12, "sharp", ha="center", fontsize=11)
    ax.text(1, -0.02, "flat", ha="center", fontsize=11)
    ax.set(xticks=[], yticks=[], ylim=(-0.2, 1.45), title="What it minimizes")
    ax.set(xlabel="weight", ylabel="loss")
    ax.legend(loc="upper center", ncols=2, frameon=False, fontsize=9)


def main():
    """Draw both."""
    _, axes = plt.subplots(
        1, 2, figsize=(7.4, 3.3), layout="constrained", width_ratios=[1.1, 1]
    )
    draw_step(axes[0])
    draw_minima(axes[1])


main()
