"""Trainings on real data whose results stand on the pages."""
