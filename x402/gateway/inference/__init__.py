"""What the gateway sells: models, their prices and providers, and the making and metering of one answer."""
