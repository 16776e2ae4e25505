"""The documentation as a site: sphinx-build -W docs site. What pages take from the code is written into them by generate.py."""

project = "Online distillation"
html_title = "Online distillation for image restoration"
extensions = ["myst_parser"]
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_copyright = False
# Not looked for in the pages' folder, which has other files too.
include_patterns = ["*.md"]
myst_heading_anchors = 3
# A link that leads nowhere is a warning, and -W makes that an error.
nitpicky = True
