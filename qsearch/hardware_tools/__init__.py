"""What ``qsearch hardware`` does: show, check, measure, fit. Loaded when a command runs."""
