"""What a person types: the commands of this folder, and the Python behind those that need some."""
