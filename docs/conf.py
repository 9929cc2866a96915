"""The site of balora_jax: `sphinx-build -W --keep-going -b html docs docs/_build/html`.

Nothing is fetched from a network, neither for the build nor by its pages.
"""

import importlib.metadata
import os
import pathlib
import sys

DOCS = pathlib.Path(__file__).parent
sys.path.insert(0, str(DOCS / "extensions"))
# As on the command line: on a CPU OpenBLAS's threads get into the way of XLA's own.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

project = "balora_jax"
author = "the balora_jax contributors, Apache-2.0"
version = importlib.metadata.version("balora-jax")
release = version

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "docstrings",
    "mathml",
    "model_types",
    "option_pages",
    "other_names",
    "source_code",
]
exclude_patterns = ["_build", "extensions", "**/.ipynb_checkpoints"]

# Quotes alone: --model keeps its hyphens, and [..., V] its dots.
smartquotes_action = "q"

# Markdown and notebooks.
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath", "amsmath"]
myst_heading_anchors = 3
# Execution takes about three minutes, and is skipped where a notebook has not changed since the
# last build: the outputs are kept in _build.
nb_execution_mode = "cache"
nb_execution_timeout = 600
nb_execution_raise_on_error = True
nb_merge_streams = True
# Warnings of libraries, with the paths of the machine that built the page.
nb_output_stderr = "remove"

# The API, from docstrings.
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_type_aliases = {"Tree": "Tree"}
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
python_maximum_signature_line_length = 80
add_module_names = False

# Every reference must have its target. Types of other packages stay plain text, since nothing is
# fetched, and so do ours that nobody but the package itself makes.
nitpicky = True
nitpick_ignore_regex = [
    ("py:.*", r"(?!balora_jax).*"),
    ("py:class", r"balora_jax\.(models\.(base|layers)|config\.plugins)\..*"),
]

html_math_renderer = "mathml"
html_theme = "sphinx_book_theme"
html_title = "balora_jax"
html_show_copyright = False
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {
    "use_download_button": False,
    "use_fullscreen_button": False,
    "show_toc_level": 2,
    "navigation_with_keys": False,
    # The sidebar has the search, and nothing else is in the line above the page.
    "navbar_start": [],
    "navbar_center": [],
    "navbar_end": [],
    "navbar_persistent": [],
}
