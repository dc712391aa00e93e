"""Long training of one trial's assignment: with checkpoints, to be taken up again, and a network at its end."""
