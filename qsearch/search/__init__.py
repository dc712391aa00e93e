"""Searchers: ways to spend a budget of evaluations. No torch."""
