"""A pod, as near as one machine without a cluster comes to it.

Rules:

1. The pod has namespaces of its own for mounts, processes and the network, with an address of its own on loopback:
   ports are those of the manifest, whatever else runs on this machine, and nothing in it reaches another one.
2. The root file system is this machine's, seen through an overlay that is read-only where the container's
   ``securityContext`` says so. The manifest's volumes are mounted at its ``volumeMounts``, with its group and modes.
3. The process runs by ``securityContext``: user and group, no capability, no new privileges. It has the manifest's
   environment and no other variable but PATH. (Not reproduced: the seccomp profile, the limits of resources.)
4. A probe is sent as the kubelet does: to the pod's address, with that as Host, and no token.
"""

from __future__ import annotations

import base64
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from tests.support.chart import ROOT, Manifest, by_kind, gateway_container, pod_of
from tests.support.volume import KubernetesVolume

ADDRESS = "10.244.0.7"
# Of a busy machine.
EVENTUALLY_S = 120.0
_ASK = """
import http.client, sys
host, port, path, *headers = sys.argv[1:]
connection = http.client.HTTPConnection(host, int(port), timeout=10)
connection.request("GET", path, headers=dict(header.split(": ", 1) for header in headers))
reply = connection.getresponse()
print(reply.status, reply.getheader("x-gateway-variant", "-"))
"""


class Pod:
    """The gateway's container of a Deployment, with its volumes; entering starts it."""

    def __init__(self, manifests: Sequence[Manifest], directory: Path, *, state_mode: int = 0o2775) -> None:
        """``state_mode`` is the mode of the state volume's directory, which the group of the pod owns."""
        self.pod = pod_of(manifests)
        self.container = gateway_container(self.pod)
        self._manifests = manifests
        self._security = self.container["securityContext"]
        self._directory = directory
        self._state_mode = state_mode
        self._root = directory / "root"
        self._log = directory / "gateway.log"
        self._others: list[subprocess.Popen[bytes]] = []
        self._process: subprocess.Popen[bytes]
        self._holder: subprocess.Popen[bytes]
        self.config: KubernetesVolume

    def __enter__(self) -> Self:
        assert os.geteuid() == 0, "these tests make namespaces: run them as root"
        self._make_volumes()
        self._make_namespaces()
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        # Not even unshare's --kill-child outlives the change of user: the kernel forgets it then.
        if self._process.poll() is None:
            os.kill(self.pid, signal.SIGKILL)
        for process in (self._process, *self._others, self._holder):
            if process.poll() is None:
                process.kill()
            process.wait()

    @property
    def log(self) -> str:
        """What the gateway has said."""
        return self._log.read_text(encoding="utf-8")

    @property
    def pid(self) -> int:
        """The gateway's process, as this machine numbers it; it is the first of its own namespace."""
        path = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        deadline_s = time.monotonic() + EVENTUALLY_S
        while not (children := path.read_text().split()):
            assert self._process.poll() is None and time.monotonic() < deadline_s, self.log
            time.sleep(0.02)
        return int(children[0])

    def volume(self, name: str) -> Path:
        """The directory of this machine that is mounted as the volume of that name."""
        return self._directory / "volumes" / name

    def start(self) -> None:
        """Start the container's process."""
        gateway = Path(sys.executable).parent / "gateway"
        command = shlex.join(map(str, [*self._inside(), gateway, *self.container["args"]]))
        mount = shlex.join(["mount", "-t", "proc", "proc", str(self._root / "proc")])
        own = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--propagation", "private")
        within = [*self._within("--mount", "--net"), *own, "sh", "-c", f"{mount} && exec {command}"]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(within, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)

    def stop(self) -> int:
        """Stop it as the kubelet does; returns the exit status."""
        os.kill(self.pid, signal.SIGTERM)
        return self.ended()

    def ended(self) -> int:
        """Wait until it has ended; returns the exit status."""
        return self._process.wait(min(EVENTUALLY_S, self.pod["terminationGracePeriodSeconds"]))

    def beside(self, *command: str | Path) -> None:
        """Start another process in the pod's network, such as a model server."""
        self._others.append(subprocess.Popen([*self._within("--net"), *command], stdout=subprocess.DEVNULL))

    def execute(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        """Run a command in the container, as `kubectl exec` does."""
        return subprocess.run(
            [*self._within("--mount", "--net"), *self._inside(), *command],
            capture_output=True,
            text=True,
            timeout=EVENTUALLY_S,
            check=False,
        )

    def get(self, port: str, path: str, *headers: str) -> tuple[int, str]:
        """The status of a GET at a named port of the pod, 0 when nobody answers, and the variant that answered."""
        number = next(each["containerPort"] for each in self.container["ports"] if each["name"] == port)
        ask = [sys.executable, "-c", _ASK, ADDRESS, str(number), path, *headers]
        done = subprocess.run([*self._within("--net"), *ask], capture_output=True, text=True, timeout=60, check=False)
        status, variant = done.stdout.split() if done.returncode == 0 else ("0", "-")
        return int(status), variant

    def probe(self, kind: str) -> bool:
        """Whether the container's startup, readiness or liveness probe succeeds."""
        asked = self.container[f"{kind}Probe"]["httpGet"]
        return 200 <= self.get(asked["port"], asked["path"])[0] < 400

    def until_probe(self, kind: str) -> None:
        """Wait until a probe succeeds."""
        self.until(lambda: self.probe(kind), f"{kind}Probe")

    def until(self, true: Any, what: str) -> None:
        """Wait until a condition holds; the log is shown when it does not."""
        deadline_s = time.monotonic() + EVENTUALLY_S
        while not true():
            assert self._process.poll() is None, f"the gateway ended ({self._process.returncode}): {self.log}"
            assert time.monotonic() < deadline_s, f"{what} does not hold: {self.log}"
            time.sleep(0.1)

    def _make_volumes(self) -> None:
        """The manifest's volumes as directories, owned as the kubelet leaves them."""
        group = self.pod["securityContext"]["fsGroup"]
        for volume in self.pod["volumes"]:
            path = self.volume(volume["name"])
            if "configMap" in volume:
                self.config = KubernetesVolume(path, by_kind(self._manifests, "ConfigMap")["data"])
            elif "secret" in volume:
                data = by_kind(self._manifests, "Secret", "-admin")["data"]
                files = {each["path"]: data[each["key"]] for each in volume["secret"]["items"]}
                KubernetesVolume(path, {name: base64.b64decode(text).decode() for name, text in files.items()})
                for name in files:
                    (path / name).resolve().chmod(volume["secret"]["defaultMode"])
                    os.chown((path / name).resolve(), 0, group)
            else:
                path.mkdir(parents=True)
                os.chown(path, 0, group)
                path.chmod(self._state_mode if volume["name"] == "state" else 0o2775)

    def _make_namespaces(self) -> None:
        """The pod's mounts and network, held by a process that ends with the pod."""
        overlay, root = self._directory / "overlay", self._root
        for path in (overlay, root):
            path.mkdir()
        lines = [
            f"mount -t tmpfs tmpfs {overlay}",
            f"mkdir {overlay}/upper {overlay}/work",
            f"mount -t overlay overlay -o lowerdir=/,upperdir={overlay}/upper,workdir={overlay}/work {root}",
        ]
        # /tmp comes first: the checkout may be below it.
        for mount in sorted(self.container["volumeMounts"], key=lambda mount: bool(mount["mountPath"] != "/tmp")):
            at = f"{root}{mount['mountPath']}"
            lines += [f"mkdir -p {at}", f"mount --bind {self.volume(mount['name'])} {at}"]
            lines += [f"mount -o remount,bind,ro {at}"] if mount.get("readOnly") else []
        # The image's files: this checkout, wherever it is; and the folders above it may be passed, whoever owns them.
        for path in dict.fromkeys((ROOT, Path(sys.prefix), Path(sys.base_prefix))):
            lines += [f"mkdir -p {root}{path}", f"mount --rbind {path} {root}{path}"]
            lines += [f"chmod o+x {root}{parent}" for parent in path.parents if parent != Path("/tmp")]
        lines += [f"mount --rbind /dev {root}/dev", f"mount -o remount,ro {root}"]
        lines += ["ip link set lo up", f"ip address add {ADDRESS}/32 dev lo", "echo ready", "exec sleep 600"]
        script = " && ".join(lines)
        self._holder = subprocess.Popen(
            ["unshare", "--mount", "--net", "--propagation", "private", "sh", "-c", script],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert self._holder.stdout is not None
        with self._holder.stdout as said:
            assert (line := said.readline()) == b"ready\n", line + said.read()

    def _within(self, *namespaces: str) -> list[str | Path]:
        return ["nsenter", "--target", str(self._holder.pid), *namespaces]

    def _inside(self) -> list[str | Path]:
        """What a command in the container is run by."""
        return ["chroot", self._root, "setpriv", *self._privileges(), "env", "-i", *self._environment()]

    def _privileges(self) -> list[str]:
        """What the container's security context says, for setpriv."""
        security = self._security
        assert security["runAsNonRoot"] and security["readOnlyRootFilesystem"] and security["runAsUser"] != 0
        assert security["capabilities"] == {"drop": ["ALL"]} and not security["allowPrivilegeEscalation"]
        user, group = security["runAsUser"], security["runAsGroup"]
        owner = [f"--reuid={user}", f"--regid={group}", f"--groups={self.pod['securityContext']['fsGroup']}"]
        return [*owner, "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all"]

    def _environment(self) -> list[str]:
        found = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"}
        for each in self.container["env"]:
            found[each["name"]] = each["value"] if "value" in each else self._secret(each["valueFrom"]["secretKeyRef"])
        return [f"{name}={value}" for name, value in found.items()]

    def _secret(self, reference: Mapping[str, str]) -> str:
        secret = by_kind(self._manifests, "Secret", "-admin")
        assert secret["metadata"]["name"] == reference["name"]
        return base64.b64decode(secret["data"][reference["key"]]).decode()
