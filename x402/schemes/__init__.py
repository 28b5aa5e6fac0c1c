"""The cryptography and the rules of one way to pay; pure: no I/O, no clock, no settings."""
