"""A linear layer with weights of 4 bits in groups of rows, with or without zero points, and float inputs."""
