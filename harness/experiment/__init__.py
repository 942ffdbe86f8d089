"""One experiment from configuration to record: compose, recipe, plan, train, test, record."""
