"""Whether a model fits an instance type's GPUs, and with which context length: decided before anything is paid for."""
