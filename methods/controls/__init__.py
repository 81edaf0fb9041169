"""The rows that bound every table: the weakest sensible labels, and what masks or perfect semantics would give."""
