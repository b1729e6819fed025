"""From the driver to what is published of each card."""
