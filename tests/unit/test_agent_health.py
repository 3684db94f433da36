"""What torchrun's agent answers."""

import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from tandem_trainer.agent_health import AgentServer

TOKEN = "a-token"


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    monkeypatch.setenv("TANDEM_TOKEN_FILE", str(tmp_path / "token"))
    with AgentServer(("127.0.0.1", 0)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def get(url: str, token: str = "") -> httpx.Response:
    return httpx.get(url, headers={"Authorization": f"Bearer {token}"} if token else {})


def test_probes_need_no_token(url: str) -> None:
    assert get(f"{url}/healthz").status_code == 200
    assert get(f"{url}/something").status_code == 404


def test_metrics_want_the_jobs_token(url: str) -> None:
    assert get(f"{url}/metrics").status_code == 401
    assert get(f"{url}/metrics", "guess").status_code == 401
    answer = get(f"{url}/metrics", TOKEN)
    assert answer.status_code == 200
    assert "tandem_trainer_round " in answer.text


def test_without_a_token_nobody_reads_metrics(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TANDEM_TOKEN_FILE")
    assert get(f"{url}/metrics", TOKEN).status_code == 401
