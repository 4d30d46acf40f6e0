"""The enclave pack, as the Pulumi engine starts it."""

from pulumi_policy import PolicyPack

from policies.enclave.rules import POLICIES

PolicyPack("mrgc-enclave", POLICIES)
