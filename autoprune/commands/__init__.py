"""What the command line can be asked for: `searching`, `results`, `built_in`; what they share is in `app`."""
