"""Hardware that is really run, or simulated, one layer at a time; see :class:`qsearch.protocols.Target`."""
