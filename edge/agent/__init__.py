"""A device that plays: an environment, two programs, actor-critic, and what FRD and its kin exchange."""
