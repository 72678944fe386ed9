"""When it goes wrong anyway: values that are no numbers, memory that runs out, and what to do next."""
