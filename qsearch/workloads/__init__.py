"""Workloads: trained networks with their data."""
