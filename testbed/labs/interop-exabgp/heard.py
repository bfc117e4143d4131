# Keeps what ExaBGP says it hears: JSON, a line a message.
import sys

with open("/run/heard.json", "w", buffering=1) as heard:
    for line in iter(sys.stdin.readline, ""):
        heard.write(line)
