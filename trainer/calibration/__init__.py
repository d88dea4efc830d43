"""What a board really does: step times and watts of the standard program, written into a profile."""
