"""How files are read, format by format; a module is imported where the first file of its format is opened."""
