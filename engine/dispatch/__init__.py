"""Where executions that wait for a process are run: in process."""
