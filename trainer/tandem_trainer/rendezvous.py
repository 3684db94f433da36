"""torchrun's rendezvous on etcd v3: a lost pod restarts the ranks in place.

torchrun finds it as `--rdzv-backend=tandem-etcd`. The agents' shared state is one key that is compared and set. Whether
an agent is alive says a lease, not the heartbeats that torch's state carries: with them each agent would write the
whole state every few seconds, and clocks that differ between machines would count as dead agents.
"""

import os
import pickle
import socket
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import structlog
from etcd3aio import prefix_range_end
from etcd3aio.kv import KVService
from tandem_core.coordination.access import EtcdAccess
from tandem_core.coordination.keys import JobKeys
from tandem_core.coordination.lease import grant_lease, keep_alive
from tandem_core.coordination.records import Control, PhaseRecord, Record
from tandem_core.coordination.store import EtcdUnreachable, Store
from torch.distributed.elastic.rendezvous import (
    RendezvousConnectionError,
    RendezvousHandler,
    RendezvousParameters,
    dynamic_rendezvous,
)
from torch.distributed.elastic.rendezvous.dynamic_rendezvous import DynamicRendezvousHandler, RendezvousBackend

from tandem_trainer.agent_health import start_agent_health
from tandem_trainer.etcd_c10d_store import EtcdC10dStore
from tandem_trainer.event_loop_thread import EventLoopThread
from tandem_trainer.follow import is_over
from tandem_trainer.metrics import ROUND

log = structlog.get_logger()

BACKEND_NAME = "tandem-etcd"
AGENT_TTL_SECONDS = 10
"""How soon an agent counts as lost when its pod does not come back under its name; if it does: at once."""
PATIENCE_SECONDS = 600.0
"""How long an agent waits for etcd. Its ranks go on meanwhile."""
_NEVER_SECONDS = 1_000_000
_LONG_AGO = datetime.min.replace(tzinfo=UTC)


class Agent(Record):
    """rendezvous/agents/<pod>, leased: the agent that lives in the pod now."""

    node: str


def create_handler() -> Callable[[RendezvousParameters], RendezvousHandler]:
    """What the entry point group `torchrun.handlers` asks for: a function that makes the handler."""
    return build_handler


def build_handler(parameters: RendezvousParameters) -> RendezvousHandler:
    """The handler of this agent; run_id is the job's uid.

    etcd is at TANDEM_ETCD_ENDPOINTS, else at the rendezvous endpoint; what it asks for is in TANDEM_ETCD_DIR. Leaves
    the process with code 0 if the job is over: the ranks of the other pods have ended and will not come back.
    """
    start_agent_health()
    # Each round needs a TCPStore of its own: torch keeps the address of the first one for as long as an agent lives,
    # and sorts keys by a restart count in which agents of different age differ.
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    thread = EventLoopThread("rendezvous")
    thread.start()
    store = Store(EtcdAccess.from_environment(endpoints=parameters.endpoint), patience_seconds=PATIENCE_SECONDS)
    thread.call(store.client.connect(), PATIENCE_SECONDS)
    keys = JobKeys(parameters.run_id)
    backend = EtcdRendezvousBackend(thread, store, keys.rendezvous)
    if backend.closed() and thread.call(_is_over(store, keys), 2 * PATIENCE_SECONDS):
        log.info("the job is over, nothing to start", job=parameters.run_id)
        raise SystemExit(0)
    parameters.config["keep_alive_interval"] = str(_NEVER_SECONDS)  # leases do it
    parameters.config["join_timeout"] = str(_NEVER_SECONDS)  # the master's deadlines do it, and know of queues
    c10d_store = EtcdC10dStore(thread, store, keys.rendezvous + "/store/")
    handler = dynamic_rendezvous.create_handler(c10d_store, backend, parameters)
    ROUND.set_function(lambda: handler._state_holder.state.round)
    _register(thread, store, keys, handler)
    backend.reopen()
    return handler


class EtcdRendezvousBackend(RendezvousBackend):
    """Holds the state of a rendezvous in the key `key` of etcd; the key's version is the fencing token."""

    def __init__(self, thread: EventLoopThread, store: Store, key: str) -> None:
        self._thread = thread
        self._store = store
        self._key = key

    @property
    def name(self) -> str:
        """The name that --rdzv-backend takes."""
        return BACKEND_NAME

    def get_state(self) -> tuple[bytes, int] | None:
        """The state and its token, or None if there is none; raises RendezvousConnectionError."""
        return self._read(self._transact([], [self._read_state(), self._read_agents()]))

    def set_state(self, state: bytes, token: int | None = None) -> tuple[bytes, int, bool] | None:
        """Set the state if its token is still `token` (None: if there is no state).

        Returns the state that is there afterwards, its token, and whether it is the new one.
        """
        unchanged = KVService.txn_compare_version(self._key, token or 0)
        response = self._transact(
            [unchanged], [KVService.txn_op_put(self._key, state)], [self._read_state(), self._read_agents()]
        )
        if response.succeeded:
            return state, (token or 0) + 1, True
        found = self._read(response)
        return (*found, False) if found is not None else None

    def closed(self) -> bool:
        """Whether agents of an earlier start ended the rendezvous."""
        found = self.get_state()
        return found is not None and pickle.loads(found[0]).closed  # noqa: S301 - torch's format; the key is the job's

    def reopen(self) -> None:
        """Let agents join again after an earlier end. Those that still run go on to the next round with new ones."""
        while (found := self.get_state()) is not None:
            state = pickle.loads(found[0])  # noqa: S301
            if not state.closed:
                return
            state.closed = False
            outcome = self.set_state(pickle.dumps(state), found[1])
            if outcome is not None and outcome[2]:
                log.info("reopened the rendezvous", key=self._key)
                return

    def _read_state(self) -> Any:
        return KVService.txn_op_get(self._key)

    def _read_agents(self) -> Any:
        prefix = agents_prefix(self._key)
        return KVService.txn_op_get(prefix, range_end=prefix_range_end(prefix))

    def _read(self, response: Any) -> tuple[bytes, int] | None:
        states, agents = (reply.response_range.kvs for reply in response.responses)
        if not states:
            return None
        alive = frozenset(Agent.model_validate_json(agent.value).node for agent in agents)
        return renew_heartbeats(states[0].value, alive, datetime.now(UTC)), states[0].version

    def _transact(self, compare: list[Any], success: list[Any], failure: list[Any] | None = None) -> Any:
        try:
            return self._thread.call(self._store.transact(compare, success, failure or []), 2 * PATIENCE_SECONDS)
        except (EtcdUnreachable, TimeoutError) as error:
            raise RendezvousConnectionError(str(error)) from error


def renew_heartbeats(state_bits: bytes, alive: frozenset[str], now: datetime) -> bytes:
    """torch's pickled state with each node's heartbeat set to `now` if it is in `alive`, else to long ago.

    torch then takes the dead ones out.
    """
    state = pickle.loads(state_bits)  # noqa: S301 - torch's own format, and the key is writable to the job alone
    state.last_heartbeats = {node: now if node_identity(node) in alive else _LONG_AGO for node in state.last_heartbeats}
    return pickle.dumps(state)


def node_identity(node: Any) -> str:
    """A name of torch's _NodeDesc that no other agent has."""
    return f"{node.addr}/{node.pid}/{node.local_id}"


def agents_prefix(key: str) -> str:
    """Prefix of the records of living agents."""
    return f"{key}/agents/"


def _register(thread: EventLoopThread, store: Store, keys: JobKeys, handler: DynamicRendezvousHandler) -> None:
    """Keep the record of this agent alive from now on. It replaces that of an earlier agent in the same pod."""
    pod = os.environ.get("TANDEM_POD_NAME") or socket.getfqdn()
    agent = Agent(node=node_identity(handler._this_node))
    key = agents_prefix(keys.rendezvous) + pod

    async def register() -> int:
        lease = await grant_lease(store, AGENT_TTL_SECONDS)
        await store.put(key, agent, lease=lease)
        return lease

    lease = thread.call(register(), 2 * PATIENCE_SECONDS)
    thread.loop.call_soon_threadsafe(
        lambda: thread.loop.create_task(keep_alive(store, lease, AGENT_TTL_SECONDS, register), name="agent's lease")
    )


async def _is_over(store: Store, keys: JobKeys) -> bool:
    phase, control = await store.get(keys.phase, PhaseRecord), await store.get(keys.control, Control)
    return phase is not None and is_over(phase, stop_wanted=control is not None and control.stop)
