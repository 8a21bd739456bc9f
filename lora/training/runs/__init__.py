"""Running a training: one attempt after another, in one process or in several."""
