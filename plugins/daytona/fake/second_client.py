#!/usr/bin/env python3
"""Daytona's own Python SDK against the small Daytona: what it makes, runs, copies and removes there.

    pip install daytona && second_client.py KEY URL
"""
import asyncio, sys

from daytona import CreateSandboxFromSnapshotParams, Daytona, DaytonaConfig, SessionExecuteRequest

key, url = sys.argv[1:]
client = Daytona(DaytonaConfig(api_key=key, api_url=url + "/api", target="us"))
box = client.create(CreateSandboxFromSnapshotParams(snapshot="small", labels={"team": "x"}, auto_stop_interval=5))
assert [item.id for item in client.list()] == [box.id], list(client.list())
assert client.get(box.id).labels["team"] == "x"
box.set_labels({"team": "y"})
assert client.get(box.name).labels == {"team": "y"}

box.fs.upload_file(b"hello\n", "/home/daytona/dir/hello.txt")
box.process.create_session("s")
ran = box.process.execute_session_command("s", SessionExecuteRequest(command="cat dir/hello.txt; echo oops >&2"))
assert (ran.stdout, ran.stderr, ran.exit_code) == ("hello\n", "oops\n", 0), ran
begun = box.process.execute_session_command("s", SessionExecuteRequest(command="seq 3; echo e >&2; sleep 0.2; sh -c 'exit 7'", run_async=True))
out, err = [], []
asyncio.run(box.process.get_session_command_logs_async("s", begun.cmd_id, out.append, err.append))
assert ("".join(out), "".join(err)) == ("1\n2\n3\n", "e\n"), (out, err)
assert box.process.get_session_command("s", begun.cmd_id).exit_code == 7
box.process.delete_session("s")

client.delete(box)
for _ in range(50):
    if not list(client.list()):
        break
else:
    raise SystemExit("it is still there")
print("created, listed, ran, streamed, uploaded, deleted")
