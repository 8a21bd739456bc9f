"""How the embedded base model is made: its world, its parts, and the measure that judges it."""
