"""A hub to test against: two real HTTP servers on the loopback, the hub on 127.0.0.1 and a CDN on
localhost.

Different host names and different ports, so that a token which leaves the hub's origin is seen.
Nothing is mocked: redirects, ranges, keep-alive and broken connections are those of real sockets. A
repository is a dict of file name to bytes; files from LARGE bytes on, and safetensors, are what git
does not store: the hub redirects to the CDN for them.

A `Fault` makes the next matching answers go wrong in one way. What must be true in every test (no
token at the CDN, no dot segment in any path, no compression requested, a bounded number of
requests) is recorded as it happens and raised by `close`.
"""

import email.utils
import fnmatch
import hashlib
import http.server
import json
import re
import socket
import ssl
import struct
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import parse_qs, quote, unquote, urlsplit

from fakerepo import FakeRepo, Fault, Seen, git_sha1, is_large

MAX_REQUESTS = 5000
PIECE = 64 << 10


class FakeHub:
    """Start it, add repositories, use `endpoint`, `close` it."""

    def __init__(
        self,
        token: str = "hf_" + "S3cr3t" * 6,
        page_size: int = 1000,
        certificate: Path | None = None,
    ) -> None:
        """`certificate`: a file with a key too, for 127.0.0.1 and localhost; both then speak
        https."""
        self.token = token
        self.page_size = page_size
        self.repos: dict[str, FakeRepo] = {}
        self.faults: list[Fault] = []
        self.seen: list[Seen] = []
        self.broken_rules: list[str] = []
        self.stopping = threading.Event()
        self.lock = threading.Lock()
        self.blobs: dict[str, bytes] = {}
        self._servers = [_Server(("127.0.0.1", 0), _Hub), _Server(("127.0.0.1", 0), _Cdn)]
        for server in self._servers:
            server.fake = self
            if certificate is not None:
                server.speak_tls(certificate)
            threading.Thread(target=server.serve_forever, args=(0.005,), daemon=True).start()
        hub, cdn = (server.server_address[1] for server in self._servers)
        scheme = "http" if certificate is None else "https"
        self.endpoint = f"{scheme}://127.0.0.1:{hub}"
        self.cdn = f"{scheme}://localhost:{cdn}"

    def add(self, repo_id: str, files: Mapping[str, bytes], **options: object) -> FakeRepo:
        """A repository."""
        self.repos[repo_id] = FakeRepo(files, **options)
        return self.repos[repo_id]

    def fault(self, kind: str, **options: object) -> Fault:
        """The next matching answers go wrong."""
        self.faults.append(Fault(kind, **options))
        return self.faults[-1]

    def take_fault(self, where: str, method: str, path: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                here = fault.where == where and fnmatch.fnmatchcase(method, fault.method)
                if here and fault.times > 0 and fnmatch.fnmatchcase(path, fault.path):
                    fault.times -= 1
                    return fault
        return None

    def requests(self, where: str = "", method: str = "") -> list[Seen]:
        """Those seen so far, of one kind."""
        return [s for s in self.seen if where in ("", s.where) and method in ("", s.method)]

    def sent(self, where: str = "cdn") -> int:
        """Bytes of bodies that went out."""
        return sum(seen.sent for seen in self.seen if seen.where == where)

    def forget(self) -> None:
        """Forgets the requests so far."""
        self.seen.clear()

    def close(self) -> None:
        """Stops the servers and raises if a rule was broken."""
        self.stopping.set()
        for server in self._servers:
            server.shutdown()
            server.server_close()
        assert not self.broken_rules, self.broken_rules
        assert len(self.seen) < MAX_REQUESTS


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64
    fake: FakeHub

    def speak_tls(self, certificate: Path) -> None:
        """The handshake is left to the thread of each connection."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        self.socket = context.wrap_socket(
            self.socket, server_side=True, do_handshake_on_connect=False
        )

    def handle_error(self, request, client_address) -> None:
        """A client that went away is not an error."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 30

    def log_message(self, *args) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        self.fake = self.server.fake
        url = urlsplit(self.path)
        self.route, self.query = url.path, parse_qs(url.query)
        where = self.place()
        self.request_seen = Seen(where, self.command, self.path, dict(self.headers.items()))
        self.fake.seen.append(self.request_seen)
        self._check_rules(where)
        self.failing = self.fake.take_fault(where, self.command, self.route)
        if self.failing is not None and self._fail_early(self.failing):
            return
        self.answer()

    do_HEAD = do_POST = do_GET

    def place(self) -> str:
        raise NotImplementedError

    def answer(self) -> None:
        raise NotImplementedError

    def _check_rules(self, where: str) -> None:
        broken = self.fake.broken_rules
        segments = unquote(unquote(self.route)).replace("\\", "/").split("/")
        if ".." in segments or "." in segments:
            broken.append(f"dot segment in {self.path}")
        agent = self.headers.get("User-Agent", "")
        if "llamaprobe" in agent and self.headers.get("Accept-Encoding") != "identity":
            broken.append(f"compression requested: {self.headers.get('Accept-Encoding')}")
        if where == "cdn" and (self.headers.get("Authorization") or self.headers.get("Cookie")):
            broken.append(f"a secret at the CDN: {self.path}")
        if self.fake.token in self.path:
            broken.append(f"a token in an address: {self.path}")
        if self.headers.get("Authorization") not in (None, f"Bearer {self.fake.token}"):
            broken.append("another Authorization than the token")

    def _fail_early(self, fault: Fault) -> bool:
        """True if the fault is the whole answer."""
        if fault.kind == "status":
            self.send(fault.status, fault.body or b'{"error":"out of order"}', fault.headers)
        elif fault.kind == "html":
            self.send(
                fault.status,
                b"<html><form>log in</form></html>",
                {"Content-Type": "text/html; charset=utf-8"},
            )
        elif fault.kind == "redirect":
            self.send(302, b"", {"Location": fault.location or self.path, **fault.headers})
        elif fault.kind == "big-error":
            self._send_without_end(fault.status, fault.headers)
        elif fault.kind == "body":
            self.send(200, fault.body, fault.headers)
        elif fault.kind == "silent":
            self.fake.stopping.wait(600)
            self.close_connection = True
        else:
            return False
        return True

    def _send_without_end(self, status: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(1 << 30))
        self.end_headers()
        self.close_connection = True
        piece = b"x" * PIECE
        for _ in range((1 << 30) // PIECE):
            if self.fake.stopping.is_set():
                return
            self._write(piece)

    def _write(self, piece: "bytes | memoryview") -> None:
        """Counts first: a client that has the bytes may read the count at once."""
        self.request_seen.sent += len(piece)
        self.wfile.write(piece)

    def send(
        self, status: int, body: bytes, headers: Mapping[str, str | None] | None = None
    ) -> None:
        """An answer; HEAD gets the same headers."""
        self.send_response(status)
        sent: dict[str, str | None] = {
            "Content-Length": str(len(body)),
            "X-Request-Id": "fake",
            **(headers or {}),
        }
        if self.failing is not None and self.failing.kind == "header":
            sent |= self.failing.headers
        for name, value in sent.items():
            if value is not None:
                self.send_header(name, value)
        if sent["Content-Length"] is None:
            self.close_connection = True
        self.end_headers()
        if self.command != "HEAD":
            self._write(body)

    def send_json(
        self, value: object, headers: Mapping[str, str] | None = None, status: int = 200
    ) -> None:
        self.send(
            status,
            json.dumps(value).encode(),
            {"Content-Type": "application/json", **(headers or {})},
        )

    def send_file(self, data: bytes, headers: dict[str, str | None]) -> None:
        """A file, or the requested range of it, with its fault."""
        fault = self.failing or Fault("none")
        if fault.kind == "flip":
            data = data[: fault.after] + bytes([data[fault.after] ^ 1]) + data[fault.after + 1 :]
        total, start, end, status = len(data), 0, len(data), 200
        match = re.fullmatch(r"bytes=([0-9]+)-([0-9]*)", self.headers.get("Range", ""))
        if match and fault.kind != "ignore-range":
            start, end = int(match[1]), min(int(match[2] or total - 1) + 1, total)
            if start >= total:
                self.send(416, b"", {"Content-Range": f"bytes */{total}"})
                return
            status = 206
            shift = 1 if fault.kind == "wrong-start" else 0
            sent_total = total + 1 if fault.kind == "wrong-total" else total
            headers = {
                **headers,
                "Content-Range": f"bytes {start + shift}-{end - 1 + shift}/{sent_total}",
            }
        headers = {"Accept-Ranges": "bytes", "Content-Length": str(end - start), **headers}
        if fault.kind == "gzip":
            headers["Content-Encoding"] = "gzip"
        if fault.kind == "etag":
            headers |= {"ETag": f'"{"e" * 40}"', "X-Repo-Commit": "c" * 40}
        if fault.kind == "header":
            headers |= fault.headers
        if fault.kind in ("no-length", "long"):
            headers["Content-Length"] = None
        self._send_body(status, headers, memoryview(data)[start:end], fault)

    def _send_body(
        self, status: int, headers: dict[str, str | None], body: memoryview, fault: Fault
    ) -> None:
        cut = fault.kind in ("drop", "reset", "stall", "no-length")
        limit = min(fault.after, len(body)) if cut else len(body)
        self.send_response(status)
        for name, value in {**headers, "X-Request-Id": "fake"}.items():
            if value is not None:
                self.send_header(name, value)
        if headers["Content-Length"] is None:
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        if self.command == "HEAD":
            return
        for at in range(0, limit, PIECE):
            piece = body[at : min(at + PIECE, limit)]
            self._write(piece)
            if self.fake.stopping.is_set():
                return
        if fault.kind == "long":
            self.wfile.write(b"more than that")
        if cut:
            self._cut(fault.kind, fault.until or self.fake.stopping)

    def _cut(self, kind: str, until: threading.Event) -> None:
        self.close_connection = True
        self.wfile.flush()
        if kind == "stall":
            until.wait(600)
        elif kind == "reset":
            time.sleep(0.05)  # so that what was sent arrives before the reset destroys it
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if kind != "reset":
            self.connection.shutdown(socket.SHUT_RDWR)


class _Cdn(_Handler):
    """Files by their sha256, for a signed address; refused with a token."""

    def place(self) -> str:
        return "cdn"

    def answer(self) -> None:
        data = self.fake.blobs.get(self.route.strip("/"))
        if self.headers.get("Authorization") or data is None or "sig" not in self.query:
            self.send(
                403,
                b"<Error><Code>AccessDenied</Code></Error>",
                {"Content-Type": "application/xml"},
            )
            return
        self.send_file(data, {"ETag": '"of-the-cdn-0123"', "Content-Type": "binary/octet-stream"})


class _Hub(_Handler):
    """The API and /resolve/."""

    def place(self) -> str:
        return "api" if self.route.startswith("/api/") else "resolve"

    def answer(self) -> None:
        if self.route == "/api/whoami-v2":
            fine = self._token_ok()
            self.send_json(
                {"type": "user", "name": "tester"} if fine else {"error": "who?"},
                status=200 if fine else 401,
            )
            return
        match = (
            re.fullmatch(
                r"/api/models/(?P<id>[^/]+(?:/[^/]+)?)(?:/(?P<verb>revision|tree)(?:/(?P<rev>[^/]+)(?:/(?P<path>.*))?)?)?",
                self.route,
            )
            if self.place() == "api"
            else re.fullmatch(
                r"/(?P<id>[^/]+(?:/[^/]+)?)/(?P<verb>resolve)/(?P<rev>[^/]+)/(?P<path>.+)",
                self.route,
            )
        )
        if match is None:
            self._error(404, "", "Not found")
            return
        found = match.groupdict()
        repo = self._open_repo(found["id"])
        if repo is None:
            return
        revision = unquote(found["rev"] or "main")
        commit = repo.refs.get(revision, revision)
        if commit not in repo.commits:
            self._error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return
        verb = found["verb"] or "revision"
        getattr(self, f"_{verb}")(found["id"], repo, commit, unquote(found["path"] or ""))

    def _token_ok(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {self.fake.token}"

    def _open_repo(self, repo_id: str) -> FakeRepo | None:
        """The repository if it may be seen; else the error is sent."""
        repo = self.fake.repos.get(repo_id)
        if self.headers.get("Authorization") and not self._token_ok():
            self._error(401, "", "Invalid credentials in Authorization header")
        elif repo is None or (repo.private and not self._token_ok()):
            self._error(401, "RepoNotFound", "Repository not found")
        elif repo.disabled:
            self._error(403, "", "Access to this resource is disabled.")
        elif repo.gated and self.place() == "resolve" and not self._token_ok():
            self._error(
                401, "GatedRepo", f"Access to model {repo_id} is restricted. Please log in."
            )
        elif repo.gated == "forbidden" and self.place() == "resolve":
            self._error(
                403,
                "GatedRepo",
                f"Access to model {repo_id} is restricted and you are not in the authorized list.",
            )
        elif repo.moved_to is not None:
            self.send(
                307,
                b"",
                {"Location": self.route.replace(repo_id, repo.moved_to, 1) + self._query()},
            )
        else:
            return repo
        return None

    def _query(self) -> str:
        return f"?{urlsplit(self.path).query}" if "?" in self.path else ""

    def _error(self, status: int, code: str, message: str) -> None:
        self.send_json(
            {"error": message}, {"X-Error-Code": code or None, "X-Error-Message": message}, status
        )

    def _revision(self, repo_id: str, repo: FakeRepo, commit: str, path: str) -> None:
        siblings = [{"rfilename": path} for path in repo.commits[commit]]
        self.send_json(
            {
                "_id": "0" * 24, "id": repo_id, "modelId": repo_id,
                "author": repo_id.split("/")[0], "sha": commit,
                "lastModified": "2024-10-24T15:07:51.000Z", "createdAt": "2024-10-24T15:07:51.000Z",
                "private": repo.private, "gated": "manual" if repo.gated else False,
                "disabled": False,
                "downloads": 0, "likes": 0, "tags": [], "siblings": siblings,
            }
        )  # fmt: skip

    def _tree(self, repo_id: str, repo: FakeRepo, commit: str, path: str) -> None:
        entries = [
            repo.entry(path, data) for path, data in repo.commits[commit].items()
        ] + repo.extra_entries
        at, size = int(self.query.get("cursor", ["0"])[0]), self.fake.page_size
        headers = {}
        if at + size < len(entries):
            query = f"recursive=True&cursor={at + size}"
            url = f"{self.fake.endpoint}/api/models/{repo_id}/tree/{commit}?{query}"
            headers["Link"] = f'<{url}>; rel="next"'
        self.send_json(entries[at : at + size], headers)

    def _resolve(self, repo_id: str, repo: FakeRepo, commit: str, path: str) -> None:
        headers = {"X-Repo-Commit": commit}
        data = repo.commits[commit].get(path)
        if data is None:
            message = "Entry not found"
            self.send_json(
                {"error": message},
                {**headers, "X-Error-Code": "EntryNotFound", "X-Error-Message": message},
                404,
            )
        elif is_large(path, data):
            sha256 = hashlib.sha256(data).hexdigest()
            self.fake.blobs[sha256] = data
            location = f"{self.fake.cdn}/{sha256}?sig={quote(email.utils.formatdate())}"
            linked = {
                "X-Linked-Etag": f'"{sha256}"',
                "X-Linked-Size": str(len(data)),
                "Location": location,
            }
            self.send(302, b"", {**headers, **linked})
        else:
            self.send_file(
                data,
                {
                    **headers,
                    "ETag": f'"{git_sha1(data)}"',
                    "Content-Type": "text/plain; charset=utf-8",
                },
            )
