"""Searchers that learn bits by gradient; their end points are assignments, evaluated like any other."""
