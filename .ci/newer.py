"""Read pip's installation report; print `name==version (locked: …)` for what the lock has older."""

import json
import re
import sys
from pathlib import Path

lock = (Path(__file__).parents[1] / "requirements.lock").read_text()
locked = dict(re.findall(r"^([\w.-]+)==(\S+)$", lock, re.MULTILINE))
for package in json.load(sys.stdin)["install"]:
    name = re.sub(r"[-_.]+", "-", package["metadata"]["name"]).lower()
    version = package["metadata"]["version"].partition("+")[0]
    known = {re.sub(r"[-_.]+", "-", key).lower(): value for key, value in locked.items()}.get(name)
    if name != "awqc" and version != known:
        print(f"{name}=={version} (locked: {known})")
