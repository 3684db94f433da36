"""Makes test cases for programming problems: generators make inputs, reference solutions vote on outputs."""
