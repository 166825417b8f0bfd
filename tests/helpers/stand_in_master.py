"""A stand-in for Determined's master: it speaks HTTP, records all that a trial reports, and fails on demand.

It knows the endpoints that a trial of Determined 0.38.1 asks for, and refuses others, requests without the session's
token, bodies that are not JSON (NaN is not), and metrics of a run that is over.
"""

import base64
import contextlib
import io
import json
import re
import tarfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

TOKEN = "the-session's-token"
PATIENCE = 20.0  # seconds that a request waits for the trial to hear of its preemption


@dataclass(frozen=True)
class Request:
    """What was asked, in which run of the trial, and how it was answered (0: the connection was dropped)."""

    run: int
    method: str
    path: str
    body: Any
    status: int


@dataclass(frozen=True)
class Report:
    """Metrics of a group ("training", "validation") after so many batches."""

    run: int
    group: str
    steps: int
    metrics: Mapping[str, Any]
    batches: Any


@dataclass
class Error:
    """How requests whose "METHOD path" matches ``pattern`` are answered, ``times`` times after ``after`` good ones.

    With ``status`` an error; with ``drop`` not at all: the connection is closed; with ``late`` after so many seconds.
    """

    pattern: str
    status: int | None = None
    drop: bool = False
    late: float = 0.0
    times: int = 1
    after: int = 0


class Refused(Exception):
    """An answer other than 200."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass
class StandInMaster:
    """One experiment with one trial, over any number of runs (`begin_run`). A context manager: it serves inside."""

    context: Mapping[str, str] = field(default_factory=dict)  # the files of the context directory
    metric: str = "f1"
    smaller_is_better: bool = False
    slots: int = 1
    errors: list[Error] = field(default_factory=list)
    preempt_at: tuple[str, int] | None = None  # when this state was announced for the n-th time in a run
    stops: Callable[[int, float], bool] | None = None  # the searcher's word on a validation: (batches, metric) -> stop

    def __post_init__(self) -> None:
        self.requests: list[Request] = []
        self.reports: list[Report] = []
        self.checkpoints: list[dict[str, Any]] = []
        self.early_exits: list[str] = []
        self.acknowledged: list[int] = []  # runs that acknowledged their preemption
        self.run = 0
        self.stopping = False
        self.preempting = threading.Event()
        self._heard = threading.Event()
        self._announced: dict[str, int] = {}
        self._closing = False
        self._lock = threading.RLock()

    def __enter__(self) -> "StandInMaster":
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _handler_of(self))
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._closing = True
        self.preempting.set()  # releases the long polls
        self.server.shutdown()
        self.server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    @property
    def allocation(self) -> str:
        return f"7.stand-in-{self.server.server_address[1]}.{self.run}"

    def begin_run(self) -> None:
        """The next run of the trial: nothing is preempted, and what late requests of the last one report is refused."""
        with self._lock:
            self.run += 1
            self._announced = {}
            self.preempting, self._heard = threading.Event(), threading.Event()

    def of(self, group: str) -> list[Report]:
        """Reports of a group, in the order of their steps (they are sent from a thread of their own)."""
        return sorted((report for report in self.reports if report.group == group), key=lambda report: report.steps)

    def asked(self, pattern: str) -> list[Request]:
        """Requests whose "METHOD path" matches."""
        return [request for request in self.requests if re.search(pattern, f"{request.method} {request.path}")]

    # ---- answers ----

    def answer(self, method: str, path: str, query: Mapping[str, str], body: Any) -> Any:
        """The reply's body; `Refused` for another status than 200."""
        for wanted, pattern, reply in _ROUTES:
            match = re.fullmatch(pattern, path)
            if wanted == method and match:
                return reply(self, body, query, *match.groups())
        raise Refused(404, f"no such endpoint: {method} {path}")

    def context_directory(self, body: Any, query: Any) -> Any:
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz") as archive:
            for name, text in self.context.items():
                member = tarfile.TarInfo(name)
                member.size = len(text.encode())
                archive.addfile(member, io.BytesIO(text.encode()))
        return {"b64Tgz": base64.b64encode(packed.getvalue()).decode()}

    def rendezvous(self, body: Any, query: Any) -> Any:
        return {"rendezvousInfo": {"addresses": ["127.0.0.1"], "rank": 0, "slots": [self.slots]}}

    def run_start(self, body: Any, query: Any) -> Any:
        if body["checkpointStorage"]["type"] != "directory":
            raise Refused(400, f"unknown storage: {body}")
        return {"storageId": 7}

    def trial(self, body: Any, query: Any) -> Any:
        validations = self.of("validation")
        latest = {"totalBatches": validations[-1].steps} if validations else None
        state = "STATE_STOPPING_COMPLETED" if self.stopping else "STATE_RUNNING"
        return {"trial": {"latestValidation": latest, "state": state}}

    def preemption(self, body: Any, query: Mapping[str, str], allocation: str) -> Any:
        signal, heard = self.preempting, self._heard
        told = signal.wait(float(query["timeout_seconds"])) and not self._closing
        if told:
            heard.set()
        return {"preempt": told}

    def acknowledge(self, body: Any, query: Any) -> Any:
        if not self.preempting.is_set():
            raise Refused(400, "nobody was preempted")
        self.acknowledged.append(self.run)
        return {}

    def state(self, body: Any, query: Any) -> Any:
        with self._lock:
            state = body["state"]
            self._announced[state] = self._announced.get(state, 0) + 1
            due = self.preempt_at == (state, self._announced[state])
        if due:
            self.preempt()
        return {}

    def preempt(self) -> None:
        """Preempts the run, and returns when its watcher has had the time to notice."""
        self.preempting.set()
        if not self._heard.wait(PATIENCE):
            raise Refused(500, "the trial does not listen for its preemption")
        time.sleep(0.5)  # it has been sent the word, and now reads it

    def metrics(self, body: Any, query: Any) -> Any:
        told, group = body["metrics"], body["group"]
        with self._lock:
            if told["trialRunId"] != self.run:
                raise Refused(400, f"run {told['trialRunId']} is over")
            shown = told["metrics"]
            steps, batches = told["stepsCompleted"], shown.get("batchMetrics")
            self.reports.append(Report(self.run, group, steps, shown["avgMetrics"], batches))
            if group == "validation" and self.stops is not None:  # as the real one: no preemption follows
                self.stopping |= self.stops(steps, shown["avgMetrics"][self.metric])
        return {}

    def best(self, body: Any, query: Any) -> Any:
        values = [report.metrics[self.metric] for report in self.of("validation")]
        if not values:
            raise Refused(404, "no validations yet")
        return {"metric": min(values) if self.smaller_is_better else max(values)}

    def checkpoint(self, body: Any, query: Any) -> Any:
        if body["state"] != "STATE_COMPLETED" or body["storageId"] != 7:
            raise Refused(400, f"not a whole checkpoint: {body}")
        self.checkpoints.append({**body, "run": self.run})
        return {}

    def early_exit(self, body: Any, query: Any) -> Any:
        with self._lock:
            if self.early_exits:
                raise Refused(400, "the early exit was already reported")
            self.early_exits.append(body["reason"])
        return {}

    def noted(self, body: Any, query: Any, *names: str) -> Any:
        return {}


class Asha:
    """The decisions of adaptive_asha's one bracket (mode: aggressive) in Determined 0.38.1, shared by its trials.

    A trial that has come to a rung is inserted by its metric, in front of its equals, and goes on where its place is
    below a ``divisor``-th of the rung's trials, or is the first. At the top rung every trial is told to stop.

    Args:
        rungs: the batches at which it decides, the last one the end.
        divisor: of the searcher.
    """

    def __init__(self, rungs: list[int], divisor: int) -> None:
        self.rungs = rungs
        self.divisor = divisor
        self.values: list[list[float]] = [[] for _ in rungs]

    def __call__(self, batches: int, metric: float) -> bool:
        if batches not in self.rungs:
            return False
        rung = self.values[self.rungs.index(batches)]
        place = sum(value > metric for value in rung)
        rung.append(metric)
        return batches == self.rungs[-1] or place >= max(1, len(rung) // self.divisor)


_ROUTES: list[tuple[str, str, Any]] = [
    ("GET", r"/api/v1/tasks/[^/]+/context_directory", StandInMaster.context_directory),
    ("POST", r"/api/v1/allocations/[^/]+/acceleratorData", StandInMaster.noted),
    ("GET", r"/api/v1/allocations/[^/]+/resources/[^/]+/rendezvous", StandInMaster.rendezvous),
    ("POST", r"/api/v1/runs/start", StandInMaster.run_start),
    ("GET", r"/api/v1/trials/\d+", StandInMaster.trial),
    ("GET", r"/api/v1/allocations/([^/]+)/signals/preemption", StandInMaster.preemption),
    ("POST", r"/api/v1/allocations/[^/]+/signals/ack_preemption", StandInMaster.acknowledge),
    ("POST", r"/api/v1/trials/\d+/runner/metadata", StandInMaster.state),
    ("POST", r"/api/v1/trials/\d+/metrics", StandInMaster.metrics),
    ("POST", r"/api/v1/trials/\d+/progress", StandInMaster.noted),
    ("GET", r"/api/v1/experiments/3/searcher/best_searcher_validation_metric", StandInMaster.best),
    ("POST", r"/api/v1/checkpoints", StandInMaster.checkpoint),
    ("POST", r"/api/v1/trials/\d+/early_exit", StandInMaster.early_exit),
]


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _handler_of(master: StandInMaster) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # or each answer would take 40 ms

        def do_GET(self) -> None:
            self.respond()

        do_POST = do_GET

        def respond(self) -> None:
            run, parts = master.run, urlsplit(self.path)
            query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
            text = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
            body, reply, status = None, {}, 200
            try:
                body = json.loads(text, parse_constant=_refuse_constant) if text else None
                if self.headers.get("Grpc-Metadata-x-allocation-token") != f"Bearer {TOKEN}":
                    raise Refused(401, "no token")
                error = self.error(f"{self.command} {parts.path}")
                if error is not None:
                    time.sleep(error.late)
                    if error.drop:
                        self.close_connection = True
                        master.requests.append(Request(run, self.command, parts.path, body, 0))
                        return
                    if error.status is not None:
                        raise Refused(error.status, "the stand-in was told to refuse")
                reply = master.answer(self.command, parts.path, query, body)
            except Refused as error:
                status, reply = error.status, {"error": {"error": str(error)}, "message": str(error)}
            except (ValueError, KeyError, TypeError) as error:
                status, reply = 400, {"error": {"error": f"malformed: {error!r}"}, "message": repr(error)}
            master.requests.append(Request(run, self.command, parts.path, body, status))
            with contextlib.suppress(OSError):  # a trial that has ended does not wait for its long poll
                self.send(status, json.dumps(reply).encode())

        def error(self, asked: str) -> Error | None:
            with master._lock:
                for error in master.errors:
                    if not re.search(error.pattern, asked):
                        continue
                    if error.after > 0:
                        error.after -= 1
                    elif error.times > 0:
                        error.times -= 1
                        return error
            return None

        def send(self, status: int, content: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing on stderr: the requests are recorded."""

    return Handler
