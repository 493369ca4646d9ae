"""Settings of the documentation; ``make html`` in this folder builds it."""

import configparser
import os
import re
import socket
import sys
import warnings
from pathlib import Path

DOCS = Path(__file__).resolve().parent
sys.path.insert(0, str(DOCS))

# Warnings of braindecode's imports do not belong on the pages.
warnings.filterwarnings("ignore", category=FutureWarning)
warnings.filterwarnings("ignore", message="Using padding='same' with even kernel")
os.environ.setdefault("PYTHONWARNINGS", "ignore")

import mne  # noqa: E402
from braindecode.models.base import EEGModuleMixin  # noqa: E402
from inventories import write_inventories  # noqa: E402
from sphinx.util import inspect  # noqa: E402
from tables import write_tables  # noqa: E402

from braindecode_sam import __version__  # noqa: E402
from braindecode_sam.models.fast import FAST  # noqa: E402

project = "braindecode_sam"
author = "The braindecode_sam developers"
copyright = "2026, the braindecode_sam developers"
version = release = __version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx.ext.viewcode",
    "numpydoc",
    "matplotlib.sphinxext.plot_directive",
    "myst_parser",
    "sphinx_copybutton",
    "sphinx_design",
    "mathml",
    "sphinx_gallery.gen_gallery",
]
templates_path = ["_templates"]
exclude_patterns = ["_build"]
html_math_renderer = "mathml"

autosummary_generate = True
# scikit-learn adds all but the first to its estimators and splitters.
HIDDEN = "__init__, " + ", ".join(
    f"set_{method}_request"
    for method in ("fit", "partial_fit", "score", "split", "transform")
)
autodoc_default_options = {"members": True, "exclude-members": HIDDEN}
autodoc_typehints = "none"  # numpydoc's sections say it
numpydoc_show_class_members = False  # autosummary's template lists them
numpydoc_xref_param_type = False

# The projects' own inventories where they can be reached; else the few entries that
# these pages refer to, so that links are there without a network too.
LIBRARIES = {
    "torch": "https://docs.pytorch.org/docs/stable/",
    "skorch": "https://skorch.readthedocs.io/en/stable/",
    "braindecode": "https://braindecode.org/stable/",
    "sklearn": "https://scikit-learn.org/stable/",
}
originals = {cls.__name__.removeprefix("Fast") for cls in FAST}
_local = write_inventories(DOCS / "_build" / "inventories", originals)
intersphinx_mapping = {
    name: (url, (None, str(_local[name]))) for name, url in LIBRARIES.items()
}
intersphinx_timeout = 5

write_tables(DOCS / "_build" / "tables", originals)

plot_html_show_source_link = False
plot_html_show_formats = False
plot_formats = [("png", 150)]

# The order of the examples is that of their first page, which lists each.
EXAMPLES = DOCS.parent / "examples"
ORDER = re.findall(r"plot_\w+\.py", (EXAMPLES / "index.rst").read_text())


def can_reach(host):
    """Tell whether a server answers."""
    try:
        socket.create_connection((host, 443), timeout=5).close()
    except OSError:
        return False
    return True


# Two examples download recordings. One of them can read the tests' copy.
EEGMAT = DOCS.parents[1] / "shared" / "data" / "eegmat"
if EEGMAT.exists():
    os.environ.setdefault("EEGMAT_PATH", str(EEGMAT))
DOWNLOADS = {
    "plot_motor_imagery.py": "MNE_DATASETS_EEGBCI_PATH",
    "plot_compare_real.py": "EEGMAT_PATH",
}
NOT_RUN = [name for name, key in DOWNLOADS.items() if not mne.get_config(key)]
if NOT_RUN and can_reach("physionet.org"):
    NOT_RUN = []
RUN = [name for name in ORDER if name not in NOT_RUN]


def place_of(path):
    """Give an example its place in the gallery."""
    return ORDER.index(Path(path).name)


sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "gallery",
    "filename_pattern": "|".join(map(re.escape, RUN)),
    "ignore_pattern": r"run\.py",
    "copyfile_regex": r"index\.rst",
    "reset_modules": ("matplotlib",),
    "abort_on_example_error": True,
    "doc_module": ("braindecode_sam",),
    "backreferences_dir": "generated/backreferences",
    "remove_config_comments": True,
    "show_signature": False,
    "write_computation_times": False,
    "download_all_examples": False,
    "minigallery_sort_order": place_of,
    "within_subsection_order": "FileNameSortKey",
}
# sphinx-gallery keeps functions in its settings, which Sphinx cannot store.
suppress_warnings = ["config.cache"]

# Whether the address in setup.cfg leads to the repository. The pages link to it if so.
PUBLISHED = False
SETUP = configparser.ConfigParser()
SETUP.read(DOCS.parent / "setup.cfg")

copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
viewcode_line_numbers = True

html_theme = "pydata_sphinx_theme"
html_title = f"braindecode_sam {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {
    "logo": {"text": "braindecode_sam"},
    "github_url": SETUP["metadata"]["url"] if PUBLISHED else "",
    "show_prev_next": False,
    "navigation_with_keys": False,
    "header_links_before_dropdown": 6,
    "footer_start": ["copyright"],
    "footer_center": ["version"],
    "footer_end": ["sphinx-version"],
    "secondary_sidebar_items": {"**": ["page-toc"], "index": [], "models": []},
}
# Pages that stand alone need no navigation at the left.
NO_SIDEBAR = """
changelog cite competition contributing gallery/index index installation limits
migrating models speed study
"""
html_sidebars = {page: [] for page in NO_SIDEBAR.split()}
html_show_sourcelink = False

# Members that skorch, braindecode or pydantic call, not users.
INTERNAL = {
    "check_data",
    "get_dataset",
    "get_loss",
    "get_params_for",
    "get_split_datasets",
    "input_shape",
    "model_config",
}


def skip_internal_members(app, what, name, obj, skip, options):
    """Leave out hooks of callbacks and nets, and pydantic's settings."""
    return True if name in INTERNAL or name.startswith("on_") else None


def hide_private_bases(app, name, obj, options, bases):
    """List public base classes only."""

    def is_public(base):
        parts = [*base.__module__.split("."), base.__qualname__]
        is_ours = parts[0] == "braindecode_sam"
        return not (is_ours and any(part.startswith("_") for part in parts))

    bases[:] = [base for base in bases if is_public(base)] or bases[0].__bases__


def show_parameters_of_models(app, what, name, obj, options, signature, returns):
    """Replace the ``(*args, **kwargs)`` of braindecode's metaclass."""
    if what == "class" and issubclass(obj, EEGModuleMixin):
        parameters = inspect.signature(obj.__init__, bound_method=True)
        shown = inspect.stringify_signature(parameters, show_annotation=False)
        return shown, returns
    return None


def say_what_was_run(app, config):
    """Define ``|outputs|``, with which the page of the examples begins."""
    said = "with the output and the figures of the run that built these pages"
    if str(config.plot_gallery) in ("0", "False"):
        said = "without their output, as they were not run for these pages"
    elif NOT_RUN:
        pages = " and ".join(f":doc:`/gallery/{Path(name).stem}`" for name in NOT_RUN)
        said += f", except {pages}, whose recordings could not be downloaded"
    config.rst_epilog = f".. |outputs| replace:: {said}"


def setup(app):
    """Connect the hooks."""
    app.connect("config-inited", say_what_was_run)
    app.connect("autodoc-skip-member", skip_internal_members)
    app.connect("autodoc-process-bases", hide_private_bases)
    app.connect("autodoc-process-signature", show_parameters_of_models)
