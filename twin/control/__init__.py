"""What stands between readings and commands: signals, plausibility, controllers and the shield. Knows no machine."""
