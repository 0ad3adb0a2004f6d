"""A drain, carried out."""
