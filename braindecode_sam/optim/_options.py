"""Parameter groups that show the options of a SAM and of its base optimizer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any

BASE_PREFIX = "base_optimizer__"
# Prefix in state_dict for an option of SAM whose name the base optimizer uses too.
SAVED_PREFIX = "sam__"


if TYPE_CHECKING:
    _Options = dict[str, Any]
else:
    # The dict itself stays empty, but torch checks for one.
    class _Options(MutableMapping, dict):
        pass


class Options(_Options):
    """A parameter group, or the defaults, of a SAM.

    A name that both use, such as Adadelta's ``rho``, refers to SAM's option. Any option
    of the base optimizer can be written with the prefix ``base_optimizer__``. The group
    is a view: `base` is the dict that the base optimizer reads.

    Parameters
    ----------
    own : dict
        Options of SAM.
    base : dict
        Group or defaults of the base optimizer.
    checks : mapping of str to callable
        Each is called with name and value when an option of SAM is set. A name that is
        not in `own` belongs to the whole optimizer and cannot be set in a group.

    Examples
    --------
    >>> checks = {"rho": lambda name, value: None}
    >>> group = Options({"rho": 0.05}, {"lr": 0.1, "rho": 0.9}, checks)
    >>> group["rho"], group["base_optimizer__rho"], group["lr"]
    (0.05, 0.9, 0.1)
    >>> list(group)
    ['rho', 'lr', 'base_optimizer__rho']
    """

    def __init__(
        self,
        own: dict[str, Any],
        base: dict[str, Any],
        checks: Mapping[str, Callable[[str, Any], object] | None],
    ) -> None:
        self.own, self.base, self.checks = own, base, checks

    def __getitem__(self, name: str) -> Any:
        if name in self.own:
            return self.own[name]
        if name in self.checks:
            raise KeyError(name)
        return self.base[name.removeprefix(BASE_PREFIX)]

    def __setitem__(self, name: str, value: Any) -> None:
        if name in self.checks:
            if name not in self.own:
                raise ValueError(
                    f"{name}={value!r} was set on an existing optimizer, but {name} can"
                    " only be given to its constructor. With skorch, set"
                    f" optimizer__{name} before initialize, or on"
                    " sklearn.base.clone(net)."
                )
            self._check(name, value)
            self.own[name] = value
        else:
            self.base[name.removeprefix(BASE_PREFIX)] = value

    def __delitem__(self, name: str) -> None:
        if name in self.checks:
            raise TypeError(f"{name} is an option of SAM and cannot be removed.")
        del self.base[name.removeprefix(BASE_PREFIX)]

    def __iter__(self) -> Iterator[str]:
        yield from self.own
        for name in self.base:
            yield BASE_PREFIX + name if name in self.checks else name

    def __len__(self) -> int:
        return len(self.own) + len(self.base)

    # Methods that dict would apply to its own, empty table.

    def __repr__(self) -> str:
        return repr(dict(self))

    def __reversed__(self) -> Iterator[str]:
        return reversed(list(self))

    def __or__(self, other: Any) -> Any:
        return dict(self) | other

    def __ror__(self, other: Any) -> Any:
        return other | dict(self)

    def __ior__(self, other: Any) -> Any:
        self.update(other)
        return self

    def copy(self) -> dict[str, Any]:
        """Return a plain dict with the same items."""
        return dict(self)

    __copy__ = copy

    def __reduce__(self) -> tuple[Any, ...]:
        return Options, (self.own, self.base, self.checks)

    # Saving. The base's options are saved as the base alone would save them.

    def saved(self) -> dict[str, Any]:
        """Return the items under their names in a ``state_dict``."""
        own = {self._saved_name(name): value for name, value in self.own.items()}
        return {**own, **self.base}

    def load(self, saved: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Split saved items into SAM's options and the base's.

        If options of SAM are missing, as in a state of the base optimizer alone, those
        of this group are used.
        """
        names = {name: self._saved_name(name) for name in self.own}
        own = {k: saved.get(name, self.own[k]) for k, name in names.items()}
        for name, value in own.items():
            self._check(name, value)
        base = {k: v for k, v in saved.items() if k not in names.values()}
        return own, base

    def _check(self, name: str, value: Any) -> None:
        check = self.checks[name]
        if check is not None:
            check(name, value)

    def _saved_name(self, name: str) -> str:
        return SAVED_PREFIX + name if name in self.base else name


def strip_prefix(options: Mapping[str, Any]) -> dict[str, Any]:
    """Remove the prefix from the base optimizer's options."""
    stripped: dict[str, Any] = {}
    for name, value in options.items():
        short = name.removeprefix(BASE_PREFIX)
        if short in stripped:
            raise TypeError(f"{short} was given twice, also as {BASE_PREFIX}{short}.")
        stripped[short] = value
    return stripped
