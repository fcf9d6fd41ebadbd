"""Jobs of several processes: how they are started, find each other and end together."""
