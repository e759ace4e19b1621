"""Drawing rollouts, in a process or a thread of their own: the recorder's thread waits for it."""
