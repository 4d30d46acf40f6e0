"""Programs that stand the cluster up: on AWS, and in `local` on one machine."""
