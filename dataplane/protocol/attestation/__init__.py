"""Nitro attestation documents: their form, their verification, and the key policy that relies on them.

Import from the modules: a parent and a router need `nonces` alone, and no certificates with it.
"""
