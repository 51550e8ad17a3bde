"""What a process keeps for all its estimators, and what a machine keeps between processes."""
