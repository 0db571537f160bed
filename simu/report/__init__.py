"""A view over finished runs: tables, figures, one HTML page, a paired comparison, and the winner of a search.

    python -m simu.report PATHS… [--out DIR]
    python -m simu.report compare A B
    python -m simu.report best PATHS…

Nothing here computes a metric: it reads what runs left behind, names every run that it could not read, and sets the
paper's printed figures (simu/report/paper/) beside ours where model and data are the paper's.
"""
