"""Proof against software nobody here wrote: the official SDKs in their own processes."""
