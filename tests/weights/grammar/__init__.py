"""Where weights come from, and which are refused."""
