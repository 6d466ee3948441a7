# Writes down in a tight loop who the machine is and what the kernel's random
# generator gives, until the file "stop" is there. A record begins with a time,
# which no two machines have the same of: what has the same was begun before
# they were two.
import json
import os
import sys
import time

MOST = 1_000_000

out = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
for n in range(MOST):
    began = time.monotonic_ns()
    with open("/run/atoll/identity.json") as f:
        who = json.load(f)["sandboxId"]
    os.write(out, b"%d %d %s %s\n" % (n, began, who.encode(), os.getrandom(16).hex().encode()))
    if os.path.exists("stop"):
        break
