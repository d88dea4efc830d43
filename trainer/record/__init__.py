"""The record of a run: one form for what the demo, the emulator and the reference trainer found, and for the report."""
