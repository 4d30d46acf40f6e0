"""The enclave proxy: bytes between parent and enclave, and between enclave and KMS."""
