"""The third party: verifies and settles for any seller."""
