"""A sparse training run: its clock, its phases, its averaged weights and its checkpoints."""
