"""The compiled CPU core, reached through ctypes: packed matrices, and whole decoder steps."""
