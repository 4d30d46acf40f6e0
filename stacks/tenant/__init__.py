"""A project of its own, which a tenant runs in its own account: one key, in every region the platform serves."""
