"""The local run on one machine: emulates AWS and the engine."""
