"""Policy packs: what must be true of every deployment. Rules are importable; each pack runs by its `__main__`."""
