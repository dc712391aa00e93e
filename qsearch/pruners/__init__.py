"""Pruners: when a hopeless evaluation ends before its full effort is spent. No torch."""
