"""What the operator sees and is told: webhooks, the dashboard, traces, and how long anything is kept."""
