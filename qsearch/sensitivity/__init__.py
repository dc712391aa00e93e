"""Sensitivities: how much damage each choice of bits does."""
