"""Cost models: what an assignment costs on a piece of hardware. One file each; no torch."""
