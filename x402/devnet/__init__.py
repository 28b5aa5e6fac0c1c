"""Both chains, a faucet and a demo model, all on loopback."""
