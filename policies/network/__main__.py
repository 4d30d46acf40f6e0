"""The network pack, as the Pulumi engine starts it."""

from pulumi_policy import PolicyPack

from policies.network.rules import POLICIES

PolicyPack("mrgc-network", POLICIES)
