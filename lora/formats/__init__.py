"""What trainers call the layers of FLUX.1 and how they store a change of them, all brought into one record."""
