"""Playing rollouts: in the compiled program, or step by step on the host."""
