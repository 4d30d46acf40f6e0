"""Pulumi components of the platform: one a file, with its arguments class."""
