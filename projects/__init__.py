"""Studies: what belongs to one application and not to the package."""
