"""Write models and records from a plan and its parameters."""
