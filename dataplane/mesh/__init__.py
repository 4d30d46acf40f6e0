"""What every sidecar shares: settings, addresses, start and drain, deadlines, budgets, health."""
