"""What the command line runs: a script a task, from its flags to the pushed repo."""
