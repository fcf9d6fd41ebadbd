"""Trainings whose results stand on the pages, and the survey of sampling masks."""
