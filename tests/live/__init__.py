"""Real processes on real chains: what kills and races are played with, in the tests and in `scripts/killtest`."""
