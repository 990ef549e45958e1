"""Small values and tools that every room may use: names, clocks, tasks, durable files."""
