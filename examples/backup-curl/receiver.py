"""The smallest app that receives jobs: `receiver.py PORT COUNT` takes so many triggers, prints each, and ends."""

import sys
from http.server import BaseHTTPRequestHandler, HTTPServer

PORT, COUNT = int(sys.argv[1]), int(sys.argv[2])
received: list[str] = []


class Receiver(BaseHTTPRequestHandler):
    """Any 2xx answer takes the trigger; anything else has it come again."""

    def do_POST(self) -> None:
        """POST /job/<name>, with the job's data as the body."""
        body = self.rfile.read(int(self.headers["content-length"])).decode()
        self.send_response(204)
        self.end_headers()
        received.append(body)
        print(f"trigger {len(received):2d}/{COUNT}  {self.path}  data {body}", flush=True)

    def log_message(self, *_args: object) -> None:
        """Quiet."""


server = HTTPServer(("127.0.0.1", PORT), Receiver)
while len(received) < COUNT:
    server.handle_request()
