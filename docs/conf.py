"""The documentation as a site: ``make docs`` builds it into docs/build/VERSION/ (Sphinx, with Markdown by MyST)."""

from __future__ import annotations

from typing import Any

import latex2mathml.converter
from docutils.nodes import SkipNode
from pygments.lexers.special import TextLexer

from ptycho_ray import __version__

project = "ptycho_ray"
author = "ptycho_ray developers"
release = version = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["build", "notebooks"]
templates_path = ["_templates"]

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
myst_fence_as_directive = ["math"]

autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_use_rtype = False

html_theme = "pydata_sphinx_theme"
html_title = f"ptycho_ray {version}"
html_show_sourcelink = False
html_static_path = ["_static"]
html_css_files = ["wide.css"]
html_math_renderer = "mathml"
html_theme_options = {
    "navbar_start": ["navbar-logo", "versions"],
    "navbar_end": ["theme-switcher"],
    "secondary_sidebar_items": ["page-toc"],
    "show_toc_level": 2,
}


def _draw(translator: Any, node: Any) -> None:
    """A formula as MathML, which browsers draw themselves: nothing is fetched from another host."""
    display = "inline" if node.tagname == "math" else "block"
    translator.body.append(latex2mathml.converter.convert(node.astext(), display=display))
    raise SkipNode


def setup(app: Any) -> None:
    app.add_html_math_renderer("mathml", inline_renderers=(_draw, None), block_renderers=(_draw, None))
    app.add_lexer("callorder", TextLexer)  # blocks of docs/callchain.md that a test reads
