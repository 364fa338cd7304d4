"""Linear layers as two thin products, y = (x U) V + b: the matrices of lowest output error, and the reference arithmetic."""
