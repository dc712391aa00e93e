"""Contracts that a plug-in can be checked by, and problems with a known optimum."""
