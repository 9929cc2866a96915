"""Loggers: TensorBoard and the services that a run's numbers are sent to, by `output.loggers`."""
