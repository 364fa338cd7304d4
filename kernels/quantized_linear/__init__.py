"""Linear layers with integer weights: preparation, rounding, reference arithmetic and the forms each runtime executes."""
