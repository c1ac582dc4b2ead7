"""calibrant's own recipe, in YAML."""

from calibrant.dialects.native.recipe_yaml import DIALECT

DIALECTS = (DIALECT,)
