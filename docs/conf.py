"""The documentation as a site: sphinx-build -W docs site. What pages take from the code is written into them by generate.py."""

project = "Online distillation"
html_title = "Online distillation for image restoration"
extensions = ["myst_parser"]
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_copyright = False
html_show_sourcelink = False
html_copy_source = False
# Styles in which what a change adds and removes can be told apart.
pygments_style = "tango"
pygments_dark_style = "monokai"
# Not looked for in the pages' folder, which has other files too.
include_patterns = ["*.md"]
myst_heading_anchors = 3
# A link that leads nowhere is a warning, and -W makes that an error.
nitpicky = True
