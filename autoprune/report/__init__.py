"""What a person sees of a study: the HTML report, the tables of the command line, the live view."""

from autoprune.report.page import write_report

__all__ = ["write_report"]
