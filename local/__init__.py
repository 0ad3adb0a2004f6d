"""One machine: what plays AWS and the engine where there is neither."""
