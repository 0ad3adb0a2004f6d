"""One node: its lifecycle, its status, its clock, its memory, its model."""
