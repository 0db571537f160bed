"""One table, five dresses: terminal (rich), Markdown, CSV, LaTeX, HTML. Pure functions of a Table."""

from simu.report.render.cells import figure, text
from simu.report.render.files import comma_separated, markdown
from simu.report.render.html import hypertext
from simu.report.render.latex import latex
from simu.report.render.terminal import terminal

__all__ = ["comma_separated", "figure", "hypertext", "latex", "markdown", "terminal", "text"]
