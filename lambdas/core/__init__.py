"""Pure decisions: an event, what is known, and the time go in; a decision with its reason comes out."""
