"""The infrastructure: Stacks assemble, the Constructs in `parts` do the work, `settings` says what is wanted."""
