"""A small hub on loopback: what huggingface_hub asks of the real one to upload and download.

Files that git would store plainly go with the commit; those named *.safetensors go by LFS, whose
address is this server too.
"""

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

REPO = r"(?P<repo>[\w.-]+/[\w.-]+)"


class Hub:
    """The state: users by token, repositories with their commits, LFS objects.

    `failing` holds the names of handlers below that answer 403, as a test wishes.
    """

    def __init__(self, users=None):
        self.users = users or {"hf_ann": "ann"}
        self.repos, self.objects, self.failing, self.seen = {}, {}, set(), []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do(self):
                length = int(self.headers.get("Content-Length") or 0)
                hub.answer(self, self.rfile.read(length))

            do_GET = do_HEAD = do_POST = do_PUT = do

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def point_clients(self, monkeypatch, cache):
        """Set what the environment variables of these names set when the client is imported."""
        from huggingface_hub import constants

        pattern = self.url + "/{repo_id}/resolve/{revision}/{filename}"
        for name, value in {
            "ENDPOINT": self.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": pattern,
            "HF_HUB_CACHE": str(cache),
            "HF_HUB_DISABLE_XET": True,
        }.items():
            monkeypatch.setattr(constants, name, value)

    def add_folder(self, repo, folder):
        """Put a repository there with the files of a folder."""
        files = [file for file in folder.rglob("*") if file.is_file()]
        self.add(repo, {f.relative_to(folder).as_posix(): f.read_bytes() for f in files})

    def add(self, repo, files=None, private=False):
        """Put a repository there."""
        self.repos[repo] = {"private": private, "commits": []}
        self.commit_files(repo, {".gitattributes": b"*.safetensors filter=lfs\n"} | (files or {}))

    def commit_files(self, repo, files, gone=()):
        commits = self.repos[repo]["commits"]
        tree = (commits[-1][1] if commits else {}) | files
        tree = {name: content for name, content in tree.items() if name not in gone}
        sha = hashlib.sha1(f"{repo} {len(commits)}".encode()).hexdigest()
        commits.append((sha, tree))
        return sha

    def files(self, repo):
        """Return the files of the last commit, but the hub's own."""
        tree = self.repos[repo]["commits"][-1][1]
        return {name: content for name, content in tree.items() if name != ".gitattributes"}

    # Requests.

    def answer(self, request, body):
        path = unquote(urlsplit(request.path).path)
        self.user = self.users.get(request.headers.get("Authorization", "")[7:])
        self.seen.append((request.command, path))
        for method, pattern, handler in ROUTES:
            found = re.fullmatch(pattern, path)
            if request.command in method and found:
                if handler.__name__ in self.failing:
                    return self.send(request, 403, {"error": "the line is cut"})
                return self.send(request, *handler(self, body, **found.groupdict()))
        return self.send(request, 404, {"error": f"no {path}"})

    def send(self, request, status, content=b"", headers=None):
        headers = {"Content-Type": "application/json"} | (headers or {})
        if not isinstance(content, bytes):
            content = json.dumps(content).encode()
        if status == 404 and "X-Error-Code" not in headers:
            headers["X-Error-Code"] = "RepoNotFound"
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name, value)
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(content)

    def whoami(self, body):
        if self.user is None:
            return 401, {"error": "Invalid credentials"}
        role = "read" if self.user == "reader" else "write"
        return 200, {"name": self.user, "orgs": [{"name": "zoo"}], "auth": _token(role)}

    def create(self, body):
        ask = json.loads(body)
        repo = f"{ask['organization'] or self.user}/{ask['name']}"
        if repo in self.repos:
            return 409, {"error": "You already created this model repo", "url": repo}
        self.add(repo, private=ask.get("visibility") == "private" or bool(ask.get("private")))
        return 200, {"url": f"{self.url}/{repo}", "name": repo}

    def validate(self, body):
        return 200, {"errors": [], "warnings": []}

    def info(self, body, repo, revision=None):
        if repo not in self.repos or (self.repos[repo]["private"] and not self.user):
            return 404, {"error": "Repository not found"}
        sha, tree = self.repos[repo]["commits"][-1]
        siblings = [{"rfilename": name, **_blob(name, data)} for name, data in tree.items()]
        private = self.repos[repo]["private"]
        return 200, {"id": repo, "sha": sha, "private": private, "siblings": siblings, "tags": []}

    def tree(self, body, repo, revision):
        tree = self.repos[repo]["commits"][-1][1]
        entries = []
        for name, data in tree.items():
            blob = _blob(name, data)
            entry = {"type": "file", "path": name, "size": len(data), "oid": blob["blobId"]}
            if "lfs" in blob:
                lfs = {"oid": blob["lfs"]["sha256"], "size": len(data), "pointerSize": 130}
                entry |= {"lfs": lfs}
            entries.append(entry)
        return 200, entries

    def preupload(self, body, repo, revision):
        files = []
        for file in json.loads(body)["files"]:
            mode = "lfs" if _is_lfs(file["path"]) else "regular"
            files.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False})
        return 200, {"files": files}

    def batch(self, body, repo):
        objects = []
        for wanted in json.loads(body)["objects"]:
            actions = {"upload": {"href": f"{self.url}/lfs/{wanted['oid']}"}}
            known = wanted["oid"] in self.objects
            objects.append(wanted | ({} if known else {"actions": actions}))
        return 200, {"transfer": "basic", "objects": objects}

    def put(self, body, oid):
        assert hashlib.sha256(body).hexdigest() == oid
        self.objects[oid] = body
        return 200, b""

    def commit(self, body, repo, revision):
        files, gone = {}, []
        for line in body.decode().splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "deletedFile":
                gone.append(value["path"])
            elif entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.objects[value["oid"]]
        sha = self.commit_files(repo, files, gone)
        url = f"{self.url}/{repo}/commit/{sha}"
        return 200, {"success": True, "commitOid": sha, "commitUrl": url, "hookOutput": ""}

    def resolve(self, body, repo, revision, file):
        sha, tree = self.repos[repo]["commits"][-1]
        if file not in tree:
            return 404, {"error": "no file"}, {"X-Error-Code": "EntryNotFound"}
        blob = _blob(file, tree[file])
        etag = blob["lfs"]["sha256"] if "lfs" in blob else blob["blobId"]
        return 200, tree[file], {"X-Repo-Commit": sha, "ETag": f'"{etag}"'}


def _token(role):
    return {"type": "access_token", "accessToken": {"displayName": "test", "role": role}}


def _is_lfs(name):
    return name.endswith(".safetensors")


def _blob(name, data):
    if _is_lfs(name):
        digest = hashlib.sha256(data).hexdigest()
        lfs = {"sha256": digest, "size": len(data), "pointerSize": 130}
        return {"blobId": digest[:40], "size": len(data), "lfs": lfs}
    digest = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    return {"blobId": digest, "size": len(data)}


ROUTES = [
    (("GET",), r"/api/whoami-v2", Hub.whoami),
    (("POST",), r"/api/repos/create", Hub.create),
    (("POST",), r"/api/validate-yaml", Hub.validate),
    (("GET",), rf"/api/models/{REPO}", Hub.info),
    (("GET",), rf"/api/models/{REPO}/revision/(?P<revision>[\w-]+)", Hub.info),
    (("GET",), rf"/api/models/{REPO}/tree/(?P<revision>[\w-]+)", Hub.tree),
    (("POST",), rf"/api/models/{REPO}/preupload/(?P<revision>[\w-]+)", Hub.preupload),
    (("POST",), rf"/api/models/{REPO}/commit/(?P<revision>[\w-]+)", Hub.commit),
    (("POST",), rf"/{REPO}\.git/info/lfs/objects/batch", Hub.batch),
    (("PUT",), r"/lfs/(?P<oid>\w+)", Hub.put),
    (
        ("GET", "HEAD"),
        rf"/{REPO}/resolve/(?P<revision>[\w-]+)/(?P<file>.+)",
        Hub.resolve,
    ),
]
