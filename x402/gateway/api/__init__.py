"""The HTTP face of the gateway: its profiles, their paths, and the shape of what each answers (aimo §1.7)."""
