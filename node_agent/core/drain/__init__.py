"""Plan a drain: which streams leave a reclaimed node, when, and to which node; and record its steps."""
