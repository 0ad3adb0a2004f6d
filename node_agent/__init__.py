"""The node agent: the one process that runs beside vLLM on every instance of the fleet."""
