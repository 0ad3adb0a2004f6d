"""One external system each, and no decisions. Foreign exceptions become errors of the contract here, and only here."""
