"""Tables: of the paper, of every run, of every metric."""

from simu.report.tables.paper import paper_tables
from simu.report.tables.runs import all_metrics, run_tables

__all__ = ["all_metrics", "paper_tables", "run_tables"]
