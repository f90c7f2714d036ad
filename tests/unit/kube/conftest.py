"""An API server that answers what a test says."""

import json
from dataclasses import dataclass, field

import kopf
import pytest
from aiohttp import web

from reknit_operator.kube.access import Access


@dataclass
class Scripted:
    """Answers in order, then for ever with the last one; remembers what it was asked."""

    url: str = ""
    answers: list = field(default_factory=list)
    requests: list = field(default_factory=list)

    def will(self, status, body=None, **headers):
        self.answers.append((status, body, {k.replace("_", "-"): v for k, v in headers.items()}))
        return self

    async def handle(self, request):
        text = await request.text()
        body = json.loads(text) if text else None
        self.requests.append((request.method, request.path_qs, body, dict(request.headers)))
        status, body, headers = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(body, str):
            return web.Response(status=status, text=body, headers=headers)
        return web.json_response(body or {}, status=status, headers=headers)


@pytest.fixture
async def scripted():
    server = Scripted()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", server.handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield server
    await runner.cleanup()


@pytest.fixture
def access(scripted):
    return Access(lambda: kopf.ConnectionInfo(server=scripted.url, token="first"))
