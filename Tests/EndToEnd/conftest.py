"""The program as a person meets it: a built binary, a folder, real images, real tools."""
import pathlib
import shutil

import pytest

import images
from server import Server


@pytest.fixture
def workspace(tmp_path):
    """A folder with the layout that the configuration names, removed after the test."""
    for name in ("images", "backup", "state", "run"):
        (tmp_path / name).mkdir()
    yield tmp_path
    shutil.rmtree(tmp_path, ignore_errors=True)


@pytest.fixture
def start(workspace):
    """Starts servers on the workspace; each is ended by its own process id after the test."""
    servers = []

    def start_server(**settings):
        server = Server(workspace, **settings)
        servers.append(server)
        return server.start()

    yield start_server
    for server in servers:
        server.end()


@pytest.fixture
def server(start):
    """A server with a repository named `local`."""
    running = start()
    running.make_repository()
    return running


@pytest.fixture(params=["io_uring", "epoll"])
def any_backend_server(request, start):
    """As `server`, once on each I/O backend."""
    running = start(ioBackend=request.param)
    assert running.get("/server")["ioBackend"] == request.param
    running.make_repository()
    return running


@pytest.fixture(params=images.VERSIONS)
def each_version(request, monkeypatch):
    """Has the test use each version of QEMU and libnbd."""
    monkeypatch.setattr(images, "version", request.param)


def pytest_terminal_summary(terminalreporter):
    if not images.HAS_NEWEST:
        terminalreporter.write_line(
            "NOT TESTED WITH THE NEWEST QEMU: run `make newest-tools` first, or use `make test`.", red=True)


def pytest_sessionstart(session):
    missing = [tool for tool in ("qemu-img", "qemu-io", "qemu-nbd", "e2fsck", "curl", "openssl")
               if not shutil.which(tool, path="/usr/bin:/bin:/usr/sbin:/sbin")]
    if images.HAS_NEWEST:
        missing += [path for path in (images.program(tool, "newest") for tool in images.TOOLS) if not shutil.which(path)]
    if missing:
        pytest.exit(f"the tests need {', '.join(missing)}: run them with `make test`", returncode=1)


ROOT = pathlib.Path(__file__).resolve().parents[2]
