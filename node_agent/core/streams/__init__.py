"""One client's stream as a state machine, for both families of routes."""
