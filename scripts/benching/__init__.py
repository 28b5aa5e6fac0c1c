"""What `scripts/bench` measures: this engine, and the official SDKs beside it, on the same work in the same run."""
