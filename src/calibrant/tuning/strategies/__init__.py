"""Ways to choose between candidates, one a file."""
