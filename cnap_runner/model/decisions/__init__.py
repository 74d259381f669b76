"""Who is due for what, and what should be done: plain functions over plain values, one module per matter. Whoever asks has looked at the
clock, the disk and the store; nothing here does."""
