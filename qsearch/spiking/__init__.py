"""Spiking networks: neurons that keep a state, in float or in fixed point, and networks of them."""
