"""The supervisor of one program; it imports nothing but the standard library and this package."""
