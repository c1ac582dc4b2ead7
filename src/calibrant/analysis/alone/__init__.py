"""What the outputs of a model lose where one layer alone reads something else: measured, and added up."""
