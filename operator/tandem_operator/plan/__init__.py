"""What is to be done for a job: pure functions of what was observed and of the time."""
