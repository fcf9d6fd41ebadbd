"""Reconstructions -> metrics, tables and pictures."""
