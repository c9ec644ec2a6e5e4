"Sphinx settings. The sources in `_docsrc` are written by build.py."
import sys
from pathlib import Path

from nbdev.config import get_config

sys.path.insert(0, str(Path(__file__).parent))

project = "logex_nb"
author = "the logex_nb developers"
project_copyright = "2026 onwards, the logex_nb developers"

extensions = ["myst_nb", "entries"]
root_doc = "index"
nb_execution_mode = "off"  # build.py ran what is to be run
nb_output_stderr = "remove"
nb_ipywidgets_js = {}
myst_enable_extensions = ["attrs_block", "attrs_inline", "dollarmath"]
myst_heading_anchors = 4
suppress_warnings = ["myst.header"]  # a symbol's heading may follow the title directly

templates_path = ["_templates"]
html_theme = "pydata_sphinx_theme"
html_title = "logex_nb"
html_static_path = ["_static", "../_docsrc/_static"]
html_css_files = ["pages.css"]
html_copy_source = False
html_show_sphinx = False
html_domain_indices = False  # symbols.html lists them by module
html_sidebars = {"**": ["search-field.html", "rooms.html"]}
html_theme_options = {
    "navbar_center": [], "navbar_end": ["links.html", "theme-switcher"], "navbar_persistent": [],
    "secondary_sidebar_items": ["page-toc"], "search_bar_text": "Search",
    "show_toc_level": 2, "footer_start": ["copyright"], "footer_end": []}

# MathJax lies beside the pages: formulas need no network
mathjax_path = "mathjax/tex-chtml.js"
mathjax_options = {"defer": "defer"}
html_context = {"repository": get_config().git_url}
