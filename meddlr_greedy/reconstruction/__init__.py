"""Scans without targets -> images."""
