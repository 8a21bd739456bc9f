"""Worker processes are started in a folder where Python finds the project."""

from lora.training.runs.launch import ROOT


def test_worker_processes_start_in_the_folder_of_the_project():
    """In the image, Python finds the project only by the working directory."""
    assert (ROOT / "train.py").is_file()
