"""Sees whatever a program and its children send, or try to send, to anywhere but this machine.

Three nets, since no one of them is both complete and to be had everywhere: a proxy that HTTP clients of every language use because
the environment names it (W&B's service is a Go program); an audit hook in every Python process, which also forbids; and strace,
where it is installed and allowed, which sees every system call.
"""

import os
import re
import shutil
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

CALLS = "trace=connect,sendto,sendmsg,sendmmsg"
HOOK = """
import ipaddress, os, socket, sys

def outside(host):
    host = host.decode() if isinstance(host, bytes) else host
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host not in (None, "", "localhost", socket.gethostname())

def hook(event, arguments):
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        address = arguments[1]
        host = address[0] if isinstance(address, tuple) else None
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        host = arguments[0]
    else:
        return
    if outside(host):
        with open(os.environ["NETWORK_WATCH"], "a") as file:
            file.write(f"{event} {host} {sys.argv[:1]}\\n")
        raise PermissionError(f"{event}: {host} is not this machine")

sys.addaudithook(hook)
"""


class Watch:
    """`with Watch(folder) as watch`: run a command as `[*watch.prefix, ...]` with `watch.environment`; `watch.attempts()`: what it
    tried."""

    def __init__(self, folder):
        self.folder, self.asked = folder, []
        (folder / "sitecustomize.py").write_text(HOOK)
        self.proxy = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
        self.proxy.asked = self.asked
        address = f"http://127.0.0.1:{self.proxy.server_port}"
        proxies = {name: address for plain in ("http_proxy", "https_proxy", "all_proxy") for name in (plain, plain.upper())}
        paths = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
        self.environment = proxies | {
            "no_proxy": "", "NO_PROXY": "", "PYTHONPATH": paths, "NETWORK_WATCH": str(folder / "python.txt"),
        }  # fmt: skip
        self.prefix = ["strace", "-f", "-q", "--seccomp-bpf", "-e", CALLS, "-o", str(folder / "strace.txt")] if strace() else []

    def __enter__(self):
        threading.Thread(target=self.proxy.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *error):
        self.proxy.shutdown()
        self.proxy.server_close()

    def attempts(self):
        found = [f"proxy: {line}" for line in self.asked]
        if (said := self.folder / "python.txt").exists():
            found += said.read_text().splitlines()
        if (said := self.folder / "strace.txt").exists():
            for line in said.read_text().splitlines():
                addresses = re.findall(r'inet_addr\("([^"]+)"\)|inet_pton\(AF_INET6, "([^"]+)"', line)
                found += [line for four, six in addresses if not (four.startswith("127.") or six in ("::1", "::ffff:127.0.0.1"))]
        return found


class Proxy(BaseHTTPRequestHandler):
    def log_message(self, *arguments):
        pass

    def refuse(self):
        self.server.asked.append(f"{self.command} {self.path}")
        self.send_error(502)

    do_GET = do_POST = do_PUT = do_HEAD = do_CONNECT = refuse


def strace():
    """Whether it is here and may look at a process."""
    if shutil.which("strace") is None:
        return False
    return (
        subprocess.run(["strace", "-f", "--seccomp-bpf", "-e", CALLS, "-o", os.devnull, "true"], capture_output=True).returncode
        == 0
    )
