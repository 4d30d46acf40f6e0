"""The enclave pack: what keeps a tenant's data key inside a measured enclave."""
