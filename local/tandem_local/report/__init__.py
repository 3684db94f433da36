"""The report of a run: one HTML file that needs nothing else."""

from tandem_local.report.writer import write_report

__all__ = ["write_report"]
