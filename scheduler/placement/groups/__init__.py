"""Places for groups: all of their pods or none, and near each other where nodes say what they are near to."""
