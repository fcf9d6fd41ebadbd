"""From scans and images to data sets to train on."""
