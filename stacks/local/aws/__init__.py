"""An embedded AWS on loopback: a strict KMS of our own, instance metadata, a trace collector, and moto for the rest.

Enforced, as AWS documents it:

- KMS requests carry a valid SigV4 signature of a known access key, within 5 minutes; temporary credentials end when
  they say (`ExpiredTokenException`), and their session token must be signed.
- The key policy decides, and nothing else: principals (users, roles, role sessions, the account's root user), actions
  with wildcards, conditions on the attestation document, the encryption context and the caller; an explicit `Deny`
  wins; an operator or condition key that is not understood never allows and always denies.
- `Recipient`: the document is verified under the local NSM's root, with age; a debug enclave's zero registers are
  refused; the answer is `CiphertextForRecipient` and no plaintext.
- Ciphertext is bound to key and encryption context (AES-256-GCM); multi-region keys open in each region they were
  replicated to and in no other; each replica has its own policy.
- IMDSv2: no metadata without a token from a PUT.

Not modelled: IAM identity policies (so an account in `Principal` means its root user alone), grants, aliases, key
rotation, asymmetric keys, deletion, throttling, and everything that moto leaves out. Requests that are not for KMS go
to moto, which checks no signatures and no policies. Keys live in memory and end with the process. A real KMS may refuse
or allow what this one does not: it stands in for one, and is no proof of one.
"""
