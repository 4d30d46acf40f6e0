"""Sidecars that carry the traffic, and the protocol that they speak."""
