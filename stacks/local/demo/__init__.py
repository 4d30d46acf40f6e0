"""`mrgc local demo`: shows what the cluster does and checks each claim; one that does not hold fails the demo."""
