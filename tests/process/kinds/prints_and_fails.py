"""Says something and cannot be imported."""

print("about to fail")
raise LookupError("no such market")
