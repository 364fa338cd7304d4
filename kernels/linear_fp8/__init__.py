"""A linear layer with fp8 (e4m3) weights and one scale a column, and inputs in float or rounded row by row to fp8."""
