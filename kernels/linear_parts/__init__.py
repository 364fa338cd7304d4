"""What the linear layers with int8, int4 and fp8 weights share: epilogues, the choice of a kernel and its tiles, and launches."""
