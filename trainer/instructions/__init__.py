"""ARM instructions of a training step, counted in an emulator: exact, whatever the machine is busy with."""
