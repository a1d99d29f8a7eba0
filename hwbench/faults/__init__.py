"""Faults in stored numbers: bit operations, random error sets."""
