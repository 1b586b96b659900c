"""The peers, on the same files: nginx, curl, rclone, httpdirfs, libfuse's passthrough_ll, ext4.

Each peer that reads through a mount has fresh() (an empty cache and a fresh mount), clear() (not
mounted, its cache removed), remount() (its disk cache stays) and `path`, the folder with the files.
"""
import os
import shutil
import socket
import urllib.request

from tools import TOOLS, Child, FuseChild, harness, mounted, output

NGINX = """daemon off;
pid {dir}/nginx.pid;
error_log stderr;
worker_processes 1;
{user}
events {{ worker_connections 1024; }}
http {{
    access_log off;
    types {{ image/png png; }}
    sendfile on;
    tcp_nopush on;
    keepalive_requests 1000000;
    client_body_temp_path {dir}/body;
    proxy_temp_path {dir}/proxy;
    fastcgi_temp_path {dir}/fastcgi;
    uwsgi_temp_path {dir}/uwsgi;
    scgi_temp_path {dir}/scgi;
    server {{
        listen 127.0.0.1:{port};
        root {root};
        autoindex on;
    }}
}}
"""


class Nginx(Child):
    """A static server in the foreground, with a configuration of its own: never the system's."""

    def __init__(self, directory, root):
        with socket.create_server(("127.0.0.1", 0)) as s:
            self.port = s.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        directory.mkdir()
        config = directory / "nginx.conf"
        config.write_text(NGINX.format(dir=directory, port=self.port, root=root,
                                       user="user root;" if os.geteuid() == 0 else ""))
        super().__init__(["/usr/sbin/nginx", "-p", directory, "-e", "stderr", "-c", config],
                         directory / "log")
        harness.until("nginx", self.answers, 20)

    def answers(self):
        self.alive()
        try:
            with urllib.request.urlopen(self.url + "/") as answer:
                return answer.status == 200
        except OSError:
            return False


class Peer:
    """A FUSE file system of somebody else."""

    def __init__(self, name, directory, argv, cache=None, env=None):
        """argv: a function of the mount point and the cache directory."""
        self.name, self.argv, self.env = name, argv, env
        self.dir = directory / name
        self.dir.mkdir()
        self.path = self.dir / "mnt"
        self.cache = self.dir / "cache"
        self.child = None

    def start(self):
        self.cache.mkdir(exist_ok=True)
        self.child = FuseChild(self.argv(self.path, self.cache), self.path, self.dir / "log",
                               env=self.env)

    def stop(self):
        if self.child:
            self.child.stop()
        self.child = None

    def remount(self):
        self.stop()
        self.start()

    def clear(self):
        self.stop()
        shutil.rmtree(self.cache, ignore_errors=True)

    def fresh(self):
        self.clear()
        self.start()


def passthrough(directory, source):
    """libfuse's example, compiled from what Debian's package brings; cache=always."""
    return Peer("passthrough_ll", directory, lambda mnt, _: [
        TOOLS / "passthrough_ll", "-f", "-o", f"source={source},cache=always", mnt])


def rclone(directory, url):
    env = dict(os.environ, RCLONE_CONFIG=str(directory / "no-rclone.conf"))
    (directory / "no-rclone.conf").touch()
    return Peer("rclone", directory, lambda mnt, cache: [
        "rclone", "mount", ":http:", mnt, "--http-url", url + "/", "--read-only",
        "--vfs-cache-mode", "full", "--cache-dir", cache, "--log-level", "ERROR"], env=env)


def httpdirfs(directory, url):
    """None where it is not installed. It misses a header that nginx does not send with a range."""
    if not shutil.which("httpdirfs"):
        return None
    return Peer("httpdirfs", directory, lambda mnt, cache: [
        "httpdirfs", "-f", "--no-range-check", "--cache", "--cache-location", cache, url + "/", mnt],
        env=dict(os.environ, HOME=str(directory), XDG_CACHE_HOME=str(directory)))


class Ours:
    """The mount that is measured, in the same words as a peer."""

    def __init__(self, hub, *options):
        self.mount = harness.Mount(hub, *options)

    @property
    def pid(self):
        return self.mount.process.pid

    @property
    def path(self):
        return self.mount.path / "requests" / "set"

    def start(self):
        self.mount.start()

    def stop(self):
        """A helper of ours that announces a name at that moment makes the mount busy."""
        m = self.mount
        if m.process:
            harness.until("unmounting", lambda: not mounted(m.path) or harness.run(
                "fusermount3", "-u", m.path, check=False).returncode == 0, 60)
        m.stop()

    def remount(self):
        self.stop()
        self.start()

    def clear(self):
        self.stop()
        shutil.rmtree(self.mount.cache, ignore_errors=True)

    def fresh(self):
        self.clear()
        self.start()


def curl_config(path, urls, into):
    """A configuration of curl that fetches the URLs one after another into a folder."""
    path.write_text("".join(f'url = "{url}"\noutput = "{into / name}"\n' for name, url in urls))
    return path


def sha256(folder, names):
    """Of all the files' bytes in their order."""
    return output(["sh", "-c", 'cat "$@" | sha256sum', "sh", *names], cwd=folder).split()[0]
