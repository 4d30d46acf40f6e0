"""What a tenant runs: sealing, opening, attestation, an OpenAI-compatible proxy."""
