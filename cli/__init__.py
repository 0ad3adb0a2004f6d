"""The `synkti` command: what a person runs on a laptop or beside an application, never a node."""
