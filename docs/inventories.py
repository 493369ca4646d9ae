"""Small inventories for intersphinx, so that the site can be built without a network.

They hold what these pages and docstrings refer to, with the addresses that the
projects' own inventories have for it.
"""

import zlib

TORCH = "generated/{0}.html#{0}"
NAMES = {
    "torch": {
        "py:class": {
            "torch.optim.AdamW": TORCH,
        },
    },
    "skorch": {
        "py:class": {
            "skorch.callbacks.Callback": "callbacks.html#{0}",
            "skorch.callbacks.EarlyStopping": "callbacks.html#{0}",
        },
    },
    "braindecode": {
        "py:class": {
            "braindecode.EEGRegressor": "generated/braindecode.regressor.EEGRegressor"
            ".html",
            "braindecode.EEGClassifier": "generated/braindecode.classifier"
            ".EEGClassifier.html",
            "braindecode.datasets.BIDSDataset": "generated/{0}.html",
        },
    },
    "sklearn": {
        "py:class": {
            "sklearn.model_selection.GroupKFold": "modules/generated/{0}.html#{0}",
            "sklearn.dummy.DummyRegressor": "modules/generated/{0}.html#{0}",
            "sklearn.model_selection.GridSearchCV": "modules/generated/{0}.html#{0}",
        },
        "py:function": {
            "sklearn.model_selection.cross_validate": "modules/generated/{0}.html#{0}",
        },
    },
}


def write_inventories(folder, models):
    """Write the inventories, in Sphinx's format.

    Parameters
    ----------
    folder : pathlib.Path
        Where to; made if need be.
    models : iterable of str
        Names of braindecode's models.

    Returns
    -------
    paths : dict of str to pathlib.Path
        By project.
    """
    folder.mkdir(parents=True, exist_ok=True)
    classes = NAMES["braindecode"]["py:class"]
    classes |= {f"braindecode.models.{name}": "generated/{0}.html" for name in models}
    paths = {}
    for project, roles in NAMES.items():
        lines = [
            f"{name} {role} 1 {address.format(name)} -\n"
            for role, names in roles.items()
            for name, address in names.items()
        ]
        header = (
            f"# Sphinx inventory version 2\n# Project: {project}\n# Version: \n"
            "# The remainder of this file is compressed using zlib.\n"
        )
        paths[project] = folder / f"{project}.inv"
        body = zlib.compress("".join(lines).encode())
        paths[project].write_bytes(header.encode() + body)
    return paths
