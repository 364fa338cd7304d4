"""A linear layer with int8 weights and one scale a column, or one for each group of rows of a column, and float inputs."""
