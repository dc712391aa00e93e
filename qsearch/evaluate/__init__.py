"""Evaluators: how good a network is under an assignment."""
