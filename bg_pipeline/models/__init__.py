"""Which models there are, what each costs and is allowed, and which one is used."""
