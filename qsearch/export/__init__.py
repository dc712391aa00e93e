"""What leaves a run: the assignment of a trial, in formats that other tools read."""

from qsearch.export.table import to_csv, to_json

FORMATS = {"json": to_json, "csv": to_csv}
"""Format → function of a run and one of its trials that gives the text of the file."""
