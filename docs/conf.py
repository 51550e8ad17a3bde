"""How the documentation is built.

sphinx-build -W --keep-going -n -b html docs docs/_build/html
python tools/check_site.py docs/_build/html

Nothing is fetched: neither by the build, which runs the examples with the bundled tiny CLIP, nor
by the pages when they are read.
"""

import os
import sys
from pathlib import Path

_HERE = Path(__file__).parent
sys.path[:0] = [str(_HERE.parent), str(_HERE / "_ext")]
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# An example may start processes, each of which imports matplotlib.
os.environ.setdefault("MPLBACKEND", "Agg")

import skclipsvd  # noqa: E402

project = "skclipsvd"
author = "The skclipsvd developers"
copyright = "The skclipsvd developers, BSD-3-Clause"
version = release = skclipsvd.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "numpydoc",
    "sphinx_gallery.gen_gallery",
    "myst_parser",
    "sphinx_copybutton",
    "benchmark_pages",
    "documented_members",
]
templates_path = ["_templates"]
exclude_patterns = ["_build", "_ext", "_templates", "**/*.ipynb", "auto_examples/**/*.py.md5"]
default_role = "autolink"
nitpicky = True
# Other projects' pages are not linked, because that would need their inventories from the network.
nitpick_ignore_regex = [
    ("py:.*", r"(open_clip|sklearn|torch|numpy|matplotlib|joblib|dask)(\..*)?"),
    # Names of the code that have no page of their own.
    ("py:.*", r"METHODS|skclipsvd\.experiments\.settings|test"),
]

myst_enable_extensions = ["attrs_block", "colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_typehints = "none"
toc_object_entries_show_parents = "hide"
autosummary_generate = True
numpydoc_show_class_members = False
numpydoc_xref_param_type = False

sphinx_gallery_conf = {
    "examples_dirs": ["../examples"],
    "gallery_dirs": ["auto_examples"],
    "filename_pattern": r"\.py$",
    "backreferences_dir": "api/backreferences",
    "doc_module": ("skclipsvd",),
    "within_subsection_order": "documented_members.reading_order",
    "abort_on_example_error": True,
    "download_all_examples": False,
    "remove_config_comments": True,
    "show_signature": False,
    "write_computation_times": False,
    "min_reported_time": 1,
}

# What is typed has a button, what is printed has none.
_TYPED = ("python", "Python", "default", "bash", "bibtex", "ini")
copybutton_selector = ", ".join(f"div.highlight-{language} pre" for language in _TYPED)

html_theme = "pydata_sphinx_theme"
html_title = "skclipsvd"
html_logo = "_static/logo.svg"
html_favicon = "_static/favicon.svg"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "logo": {"text": f"skclipsvd {release}", "alt_text": "skclipsvd, main page"},
    "github_url": "https://github.com/skclipsvd/skclipsvd",
    "header_links_before_dropdown": 6,
    "navbar_align": "left",
    "navbar_end": ["theme-switcher", "navbar-icon-links"],
    "navigation_with_keys": False,
    "show_toc_level": 2,
    "show_nav_level": 2,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
    "pygments_light_style": "a11y-high-contrast-light",
}
# No empty side bar where there is nothing beside a page.
html_sidebars = {page: [] for page in ("index", "install", "how_it_works", "faq")}
