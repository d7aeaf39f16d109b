"""circus' own client library, told by lines of JSON what to do. Runs in the environment of circus.

`python circus_client.py ENDPOINT`
"""

from __future__ import annotations

import json
import sys
from typing import Any

from circus.client import CircusClient  # type: ignore[import-not-found]

BYTES = {"B": 1, "K": 2**10, "M": 2**20, "G": 2**30}


def answer(client: CircusClient, asked: dict[str, Any]) -> Any:
    match asked["verb"]:
        case "start":
            for bot in asked["bots"]:
                program, *args = bot["command"]
                options = {"copy_env": True, "stdout_stream": {"class": "FileStream", "filename": bot["log"]}}
                told(client, "add", name=bot["name"], cmd=program, args=args, options=options, start=True, waiting=True)
            return None
        case "stop":
            for name in asked["names"]:
                told(client, "rm", name=name, waiting=True)
            return None
        case "list":
            infos = told(client, "stats")["infos"]
            return [
                {
                    "number": int(name),
                    "pid": int(pid),
                    "cpu_percent": float(info["cpu"]),
                    "rss_bytes": int(float(info["mem_info1"][:-1]) * BYTES[info["mem_info1"][-1]]),
                }
                for name, processes in infos.items()
                for pid, info in processes.items()
                if isinstance(info, dict)
            ]
    raise ValueError(asked["verb"])


def told(client: CircusClient, command: str, **properties: Any) -> Any:
    """Raises RuntimeError when circus refuses."""
    answered = client.send_message(command, **properties)
    if answered["status"] != "ok":
        raise RuntimeError(f"{command}: {answered}")
    return answered


def main(endpoint: str) -> None:
    client = CircusClient(endpoint=endpoint, timeout=60)
    for line in sys.stdin:
        try:
            print(json.dumps({"answer": answer(client, json.loads(line))}), flush=True)
        except Exception as error:
            print(json.dumps({"error": repr(error)}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
