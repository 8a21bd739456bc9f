"""RunPod's side of a serverless worker, on loopback: it hands out jobs, stops them, and takes progress and answers.

The URLs, and what is sent to them, are those of runpod 1.12: rp_job.py, rp_http.py, rp_ping.py.
"""

import contextlib
import json
import queue
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.loopback import QuietHandler, http_server

Json = dict[str, Any]
SECONDS_OF_A_POLL = 0.05  # RunPod itself keeps a request for a job open for many seconds
IN_PROGRESS = "IN_PROGRESS"


@dataclass(slots=True)
class FakeRunPod:
    """What it hands out, and what came back."""

    url: str = ""
    jobs: queue.Queue[Json] = field(default_factory=queue.Queue)
    stops: queue.Queue[str] = field(default_factory=queue.Queue)
    sent: queue.Queue[tuple[str, Json]] = field(default_factory=queue.Queue)  # the id of a job, and what came for it

    @property
    def environment(self) -> dict[str, str]:
        """The variables that RunPod sets in a worker."""
        return {
            "RUNPOD_WEBHOOK_GET_JOB": f"{self.url}/v2/e/job-take/$ID?gpu=none",
            "RUNPOD_WEBHOOK_POST_OUTPUT": f"{self.url}/v2/e/job-done/$RUNPOD_POD_ID/$ID?gpu=none",
            "RUNPOD_WEBHOOK_PING": f"{self.url}/v2/e/ping/$RUNPOD_POD_ID?gpu=none",
            "RUNPOD_POD_ID": "worker1",
            "RUNPOD_AI_API_KEY": "rpa_key_of_the_worker",
            "RUNPOD_SKIP_AUTO_SYSTEM_CHECKS": "true",  # of memory, disk and the internet
            "RUNPOD_SKIP_GPU_CHECK": "true",
        }

    def run(self, name: str, **inputs: object) -> None:
        """Let the worker take a job."""
        self.jobs.put({"id": name, "input": inputs})

    def next(self, name: str, *, seconds: float = 240) -> Json:
        """The next thing that comes for a job: a progress, or its answer."""
        found, content = self.sent.get(timeout=seconds)
        assert found == name, (found, content)
        return content

    def answer(self, name: str, *, seconds: float = 240) -> Json:
        """The answer to a job."""
        deadline = time.monotonic() + seconds
        while True:
            content = self.next(name, seconds=max(deadline - time.monotonic(), 0.01))
            if content.get("status") != IN_PROGRESS:
                return content


@contextlib.contextmanager
def fake_runpod() -> Iterator[FakeRunPod]:
    """Serve it."""
    fake = FakeRunPod()

    class Handler(QuietHandler):
        def do_GET(self) -> None:  # noqa: N802 - http.server's name
            if "/job-take/" in self.path:
                self._respond_with(fake.jobs)
            elif "/job-stop/" in self.path:
                self._respond_with(fake.stops)
            else:
                self.respond(b"{}")

        def do_POST(self) -> None:  # noqa: N802 - http.server's name
            name = self.path.partition("?")[0].rpartition("/")[2]
            fake.sent.put((name, json.loads(self.body())))
            self.respond(b"{}")

        def _respond_with(self, waiting: "queue.Queue[Any]") -> None:
            try:
                content = waiting.get(timeout=SECONDS_OF_A_POLL)
            except queue.Empty:
                self.send_response(204)
                self.end_headers()
                return
            self.respond(json.dumps(content if waiting is fake.jobs else {"jobsToStop": [content]}).encode())

    with http_server(Handler) as url:
        fake.url = url
        yield fake
