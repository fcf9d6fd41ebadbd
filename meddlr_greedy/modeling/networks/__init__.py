"""Unrolled networks of the plugin."""
