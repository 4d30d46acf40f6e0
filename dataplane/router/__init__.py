"""The router: authenticates a tenant, chooses a host, forwards bytes."""
