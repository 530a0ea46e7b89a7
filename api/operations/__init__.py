"""Operations on executions that HTTP and the command line share: start, follow, approve, retry, look up."""
