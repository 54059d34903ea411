"""The report of a run: one self-contained page, its figures, and the same tables as Markdown."""

from ipsolve.report.page import build_report, write_report
from ipsolve.report.text import console_table, document_table, markdown
from ipsolve.report.view import RunView, open_run

__all__ = ["RunView", "build_report", "console_table", "document_table", "markdown", "open_run", "write_report"]
