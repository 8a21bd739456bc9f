"""Processes of a team are started where Python finds the project."""

from lora.training.runs.launch import ROOT


def test_a_team_starts_in_the_folder_of_the_project():
    """In the image nothing else tells Python where it is."""
    assert (ROOT / "train.py").is_file()
