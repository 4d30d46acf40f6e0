"""The enclave: data keys, sealing and opening, and nothing that it does not need."""
