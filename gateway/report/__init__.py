"""The report of one rollout, to be sent around: a page that needs nothing else, or Markdown for a comment.

* facts: what a report is made of, from the control plane or from a journal alone
* words: verdict, odds and effects in sentences, the same in both
* markup: elements whose text cannot become markup
* svg: charts as inline SVG
* page, markdown: the two forms
"""

from __future__ import annotations

from gateway.report.facts import ReportFacts
from gateway.report.markdown import markdown
from gateway.report.page import HEADERS, html

__all__ = ["HEADERS", "ReportFacts", "html", "markdown"]
