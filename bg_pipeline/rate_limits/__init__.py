"""Rate limits: how fast each paid service may be called, and the calls themselves."""
