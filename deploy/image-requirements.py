"""Prints what the image needs of the dependencies in the pyproject.toml that is named: all but `kubernetes`, whose only use
is reading kubeconfig files; a pod has a service account instead."""

import re
import sys
import tomllib

NOT_IN_PODS = {"kubernetes"}

with open(sys.argv[1], "rb") as file:
    dependencies = tomllib.load(file)["project"]["dependencies"]
print("\n".join(line for line in dependencies if re.split(r"[^A-Za-z0-9-]", line)[0] not in NOT_IN_PODS))
