"""Plans of a run for devices that need not be there: memory, operations, communication, time."""
