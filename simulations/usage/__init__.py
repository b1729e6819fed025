"""An hour of usage made up, to check the account against a known answer."""
