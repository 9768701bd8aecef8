"""Stored samples of external simulators; each file's header says what it holds."""
