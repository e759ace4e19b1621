"""Draw rollouts in a process or thread of their own, while a thread of the run waits for clips."""
