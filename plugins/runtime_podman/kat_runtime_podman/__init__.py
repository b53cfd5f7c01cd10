"""Runtime driver of KAT on Podman: containers in a storage of their own, untouched by the agent's restarts."""
