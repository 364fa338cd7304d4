"""Szilard rewrites a trained model so that it does the same work for fewer joules."""
