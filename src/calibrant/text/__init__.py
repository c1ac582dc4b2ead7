"""Text formats: YAML, JSON and protobuf text, with the place of every value, and schemas over them."""
