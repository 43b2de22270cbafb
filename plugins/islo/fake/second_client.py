#!/usr/bin/env python3
"""Islo's own Python SDK against the small Islo: what it makes, runs, copies and removes there.

    pip install islo && second_client.py KEY URL
"""
import pathlib, sys, tempfile

from islo import Islo
from islo.custom.exec import exec_and_wait_sync
from islo.custom.files import upload_dir_from_path, upload_file_from_path

key, url = sys.argv[1:]
client = Islo(api_key=key, base_url=url, compute_url=url)
box = client.sandboxes.create_sandbox(name="second-client", image="docker.io/library/ubuntu:24.04", vcpus=2)
while client.sandboxes.get_sandbox("second-client").status != "running":
    pass
listed = client.sandboxes.list_sandboxes(name_prefix="second-", limit=10)
assert [item.name for item in listed.items] == ["second-client"] and listed.total == 1, listed
assert client.sandboxes.get_sandbox_by_id(box.id).name == "second-client"

with tempfile.TemporaryDirectory() as here:
    pathlib.Path(here, "dir").mkdir()
    pathlib.Path(here, "dir", "hello.txt").write_text("hello\n")
    http, token = client._client_wrapper.httpx_client.httpx_client, client._client_wrapper.get_headers()["Authorization"].split()[1]
    upload_dir_from_path(http, url, "second-client", here, "/workspace/tree", token=token)

ran = exec_and_wait_sync(client, "second-client", ["sh", "-c", "cat dir/hello.txt; echo $A >&2; exit 3"],
                         workdir="/workspace/tree", env={"A": "b"}, poll_interval=0.05)
assert (ran.stdout, ran.stderr, ran.exit_code) == ("hello\n", "b\n", 3), ran
stream = client.sandboxes.with_raw_response.exec_in_sandbox_stream("second-client", command=["echo", "streamed"])
assert stream.data is None
client.sandboxes.delete_sandbox("second-client")
try:
    client.sandboxes.get_sandbox("second-client")
except Exception as gone:
    assert getattr(gone, "status_code", None) == 404, gone
else:
    raise SystemExit("it is still there")
print("created, listed, ran, uploaded, deleted")
