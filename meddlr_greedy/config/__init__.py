"""Configuration: safe reading of YAML, the schema of ``MISC.GREEDY``, and the config that both make."""
