"""What a checkpoint is used for: functions of a network, pixels and options."""
