"""Quantisers, calibration and the quantised network (torch)."""
