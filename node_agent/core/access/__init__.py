"""Who may do what: the keys of clients, what each may do, and how much of it."""
