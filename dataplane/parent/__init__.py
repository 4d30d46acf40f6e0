"""The parent application: the host's HTTP face, holding ciphertext only."""
