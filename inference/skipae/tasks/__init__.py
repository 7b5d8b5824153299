"""Tasks: functions of a network, pixels and options."""
