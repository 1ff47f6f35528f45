"""The worker: takes invocations from queues, executes them, and reports how they ended."""
