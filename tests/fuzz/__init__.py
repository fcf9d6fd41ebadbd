"""Files with any byte, key or number changed: the commands read them, or refuse them in one line."""
