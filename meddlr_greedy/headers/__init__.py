"""What a scan tells beside its k-space: where its slices lie in the patient, and what is kept of its study."""
