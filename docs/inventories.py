"""Small inventories for intersphinx, so that the site can be built without a network.

They hold what these pages and docstrings refer to, with the addresses that the
projects' own inventories have for it.
"""

import zlib

TORCH = "generated/{0}.html#{0}"
MODELS = """
    ATCNet AttentionBaseNet CTNet EEGConformer EEGITNet EEGInceptionERP
    EEGInceptionMI EEGNeX EEGNet EEGTCNet EMG2QwertyNet FBMSNet IFNet MSVTNet SPARCNet
    SleepStagerChambon2018 TCFormer TIDNet TSception
"""
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
            **{f"braindecode.models.{m}": "generated/{0}.html" for m in MODELS.split()},
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


def write_inventories(folder):
    """Write the inventories, in Sphinx's format.

    Parameters
    ----------
    folder : pathlib.Path
        Where to; made if need be.

    Returns
    -------
    paths : dict of str to pathlib.Path
        By project.
    """
    folder.mkdir(parents=True, exist_ok=True)
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
