"""Reports: what a run folder holds, as figures, tables and one HTML page."""

from codesign.report.html import write_report

__all__ = ["write_report"]
