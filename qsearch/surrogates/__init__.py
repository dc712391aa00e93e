"""Cost models learned from measurements: Gaussian processes, active learning, transfer."""
