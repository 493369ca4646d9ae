"""A fitted net as a model of braindecode alone."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import torch
from sklearn.compose import TransformedTargetRegressor
from sklearn.pipeline import Pipeline
from skorch import NeuralNet


def stock_model(estimator: Any) -> torch.nn.Module:
    """Return the model of a fitted net for scripts without this package.

    The result is of braindecode's class, such as ``EEGNeX`` for ``FastEEGNeX``, so that
    its ``state_dict`` loads there. If a ``TransformedTargetRegressor`` has standardized
    the targets, the model's last layer converts its outputs back.

    Parameters
    ----------
    estimator : fitted estimator
        A net, or a ``TransformedTargetRegressor``, a search or a pipeline that ends
        with one. Earlier steps of a pipeline are not part of the model: pass windows
        that they have transformed.

    Returns
    -------
    model : torch.nn.Module
        The model, in evaluation mode, on the CPU.

    Raises
    ------
    TypeError
        If there is no net in the estimator, its module is not from braindecode, or it
        computes something else, as a subclass may.
    ValueError
        If the targets' transformer is not linear, or the last layer cannot hold its
        scale. braindecode bounds the norm of some last layers, for instance EEGNeX's by
        0.25 for each output.

    Examples
    --------
    >>> import numpy as np
    >>> from braindecode_sam import make_regressor
    >>> from braindecode_sam.nets import stock_model
    >>> from sklearn.compose import TransformedTargetRegressor
    >>> from sklearn.preprocessing import StandardScaler
    >>> X = np.random.default_rng(0).normal(size=(8, 4, 200)).astype("float32")
    >>> seconds = np.linspace(0.3, 0.8, 8)
    >>> net = make_regressor(
    ...     module__n_chans=4, module__n_times=200, device="cpu", max_epochs=1,
    ...     batch_size=4, verbose=0)
    >>> scaled = TransformedTargetRegressor(net, transformer=StandardScaler())
    >>> model = stock_model(scaled.fit(X, seconds))
    >>> type(model).__name__, model(torch.as_tensor(X)).shape
    ('EEGNeX', torch.Size([8, 1]))
    """
    transformers: list[Any] = []
    while not isinstance(estimator, NeuralNet):
        if isinstance(estimator, TransformedTargetRegressor):
            transformers.insert(0, estimator.transformer_)
            estimator = estimator.regressor_
        elif isinstance(estimator, Pipeline):
            estimator = estimator[-1]
        elif hasattr(estimator, "best_estimator_"):
            estimator = estimator.best_estimator_
        else:
            raise TypeError(f"estimator must hold a fitted net, got {estimator!r}")
    if isinstance(estimator.module, torch.nn.Module):
        raise TypeError(
            "the net's module must be a class or its name, from which another model can"
            f" be built, got an instance of {type(estimator.module).__name__}"
        )
    fitted = estimator.module_
    known = [c for c in type(fitted).__mro__ if c.__module__.startswith("braindecode.")]
    if not known:
        raise TypeError(
            f"the module must be a model of braindecode, got {type(fitted).__name__}"
        )
    takes = inspect.signature(known[0]).parameters
    params = estimator.get_params_for("module")
    model = known[0](**{name: params[name] for name in params.keys() & takes.keys()})
    model.load_state_dict(fitted.state_dict())
    model.eval()
    generator = torch.Generator().manual_seed(0)
    windows = 10 * torch.randn(4, model.n_chans, model.n_times, generator=generator)
    expected = torch.as_tensor(estimator.forward(windows))
    with torch.no_grad():
        error = (model(windows) - expected).abs().max()
    if not error <= 1e-3 * (1 + expected.abs().max()):
        raise TypeError(
            f"{type(fitted).__name__} computes something else than"
            f" {known[0].__name__} with the net's parameters of the module"
        )
    if transformers:
        _fold(model, transformers, windows)
    return model


@torch.no_grad()
def _fold(model: Any, transformers: list[Any], windows: torch.Tensor) -> None:
    """Let the last layer undo the transformations of targets."""
    before = model(windows).numpy()

    def undo(y: Any) -> Any:
        for transformer in transformers:
            y = transformer.inverse_transform(y)
        return y

    one = np.ones((1, before.shape[1]))
    shift = undo(0 * one)[0]
    scale = undo(one)[0] - shift
    points = np.concatenate([before, *(c * one for c in (-10, -3, -1, 0.3, 3, 10))])
    error = np.abs(undo(points) - (points * scale + shift))
    if (error > 1e-4 * np.abs(scale)).any():
        raise ValueError(
            "the transformer of the targets must be linear, such as StandardScaler, got"
            f" {transformers!r}"
        )
    kinds = (torch.nn.Linear, torch.nn.Conv1d, torch.nn.Conv2d)
    last = [layer for layer in model.modules() if isinstance(layer, kinds)][-1]
    factors = torch.as_tensor(scale, dtype=last.weight.dtype)
    weight = last.weight * factors.reshape(-1, *[1] * (last.weight.ndim - 1))
    bounded: Any = getattr(last, "parametrizations", None)
    (last.weight if bounded is None else bounded.weight.original).copy_(weight)
    if last.bias is not None:
        last.bias.copy_(last.bias * factors + torch.as_tensor(shift))
    error = np.abs(model(windows).numpy() - undo(before))
    if (error > 1e-3 * np.abs(scale)).any():
        raise ValueError(
            f"the last layer of {type(model).__name__} cannot hold the scale"
            f" {scale.tolist()} of the targets, or there are several such layers; a"
            " larger unit, such as seconds instead of milliseconds, has a smaller scale"
        )
