"""The local stack's engine: how `.venv-engine` is installed, and the tiny model that runs in it."""
