"""Reports: what a run folder holds, as figures, tables and one HTML page.

`html.write_report` writes it. Nothing is imported here: tables need no matplotlib.
"""
