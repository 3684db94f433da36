"""The training thread's view of a real etcd."""

import os
import signal
import statistics
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from tandem_core.coordination.keys import JobKeys
from tandem_core.coordination.membership import new_member
from tandem_core.coordination.records import Ack, Control, EngineState, EngineStatus, Member, PhaseRecord, Record, Role
from tandem_core.coordination.store import Store
from tandem_core.phases import Phase
from tandem_trainer.coordination_thread import Coordination, CoordinationLost, DevicesHeld, Observed
from tandem_trainer.event_loop_thread import EventLoopThread


def phase(name: Phase, iteration: int) -> PhaseRecord:
    return PhaseRecord(iteration=iteration, phase=name, version=iteration, token=1, started_at=time.time())


class Others:
    """The other members of the job: they write."""

    def __init__(self, endpoint: str) -> None:
        self._thread = EventLoopThread("others")
        self._store = Store(endpoint)
        self._thread.start()
        self._thread.call(self._store.client.connect(), 10)

    def put(self, key: str, record: Record) -> None:
        self._thread.call(self._store.put(key, record), 10)

    def delete(self, key: str) -> None:
        self._thread.call(self._store.delete(key), 10)

    def close(self) -> None:
        self._thread.call(self._store.client.close(), 10)
        self._thread.__exit__(None, None, None)


@pytest.fixture
def others(etcd_endpoint: str) -> Iterator[Others]:
    others = Others(etcd_endpoint)
    yield others
    others.close()


@pytest.fixture
def coordination(etcd_endpoint: str, keys: JobKeys) -> Iterator[Coordination]:
    member = new_member(Role.TRAINER, "0", "sums-hybrid-1")
    with Coordination(etcd_endpoint, keys, member, follow_engine=True) as coordination:
        yield coordination


def wait_until(coordination: Coordination, condition: Callable[[Observed], bool]) -> Observed:
    while not condition(seen := coordination.observe()):
        coordination.wait_for_change(seen, 10)
    return seen


def test_a_phase_is_noticed_when_it_is_written(coordination: Coordination, others: Others, keys: JobKeys) -> None:
    delays, writes = [], []
    for iteration in range(30):
        record = phase(Phase.TRAINING, iteration)

        def write(record: PhaseRecord = record) -> None:
            started = time.perf_counter()
            others.put(keys.phase, record)
            writes.append(1e3 * (time.perf_counter() - started))

        written = threading.Thread(target=write)
        started = time.perf_counter()
        written.start()
        wait_until(coordination, lambda seen, record=record: seen.phase == record)
        delays.append(1e3 * (time.perf_counter() - started))
        written.join()
    noticed, put = statistics.median(delays), statistics.median(writes)
    print(f"noticed after {noticed:.2f} ms, worst {max(delays):.2f} ms; written after {put:.2f} ms")
    assert noticed < 4 * put


def test_only_the_own_engine_in_this_iteration(coordination: Coordination, others: Others, keys: JobKeys) -> None:
    def acknowledge(pod: str, iteration: int, error: str = "") -> str:
        member = f"sidecar-{pod}"
        key = keys.ack(iteration, Phase.DRAINING, member)
        others.put(key, Ack(member=member, iteration=iteration, phase=Phase.DRAINING, error=error))
        return key

    others.put(keys.phase, phase(Phase.DRAINING, 3))
    acknowledge("sums-hybrid-10", 3)
    acknowledge("sums-hybrid-1", 2)
    acknowledge("sums-hybrid-1", 3, error="it hangs")
    seen = wait_until(coordination, lambda seen: seen.phase is not None)
    with pytest.raises(TimeoutError):
        coordination.wait_for_change(seen, 0.5)
    assert not seen.engine_released
    key = acknowledge("sums-hybrid-1", 3)
    wait_until(coordination, lambda seen: seen.engine_released)

    # The master goes back to Loading and makes the acknowledgement void.
    others.delete(key)
    wait_until(coordination, lambda seen: not seen.engine_released)
    others.put(keys.phase, phase(Phase.LOADING, 2))
    others.put(keys.phase, phase(Phase.ROLLOUT, 3))
    acknowledge("sums-hybrid-1", 3)
    assert wait_until(coordination, lambda seen: seen.engine_released).phase is not None


def test_master_and_stop_are_seen(coordination: Coordination, others: Others, keys: JobKeys) -> None:
    assert coordination.observe() == Observed(None, False, False, "", False)
    for name, url in (("old", "http://127.0.0.1:1"), ("new", "http://127.0.0.1:2")):
        others.put(keys.member(Role.MASTER, name), new_member(Role.MASTER, name, name, url=url))
    others.put(keys.control, Control(stop=True))
    assert wait_until(coordination, lambda seen: seen.master_url == "http://127.0.0.1:2")
    assert wait_until(coordination, lambda seen: seen.stop_wanted)


def test_the_stop_signal_wakes_a_waiting_rank(coordination: Coordination) -> None:
    seen = coordination.observe()
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
    coordination.wait_for_change(seen, 10)
    assert coordination.observe().stopping


def test_devices_are_waited_for(coordination: Coordination, others: Others, keys: JobKeys) -> None:
    def sidecar(index: int, state: EngineState) -> Member:
        engine = EngineStatus(url="http://127.0.0.1:8100", state=state)
        return new_member(Role.SIDECAR, f"sums-hybrid-{index}", f"sums-hybrid-{index}", engine=engine)

    others.put(keys.member(Role.SIDECAR, "a"), sidecar(0, EngineState.RELEASED))
    others.put(keys.member(Role.SIDECAR, "b"), sidecar(1, EngineState.SERVING))
    with pytest.raises(DevicesHeld, match=r"hold the devices that the trainer needs: sums-hybrid-1\."):
        coordination.wait_for_devices(0.2)
    released = sidecar(1, EngineState.RELEASED)
    threading.Timer(0.2, others.put, (keys.member(Role.SIDECAR, "b"), released)).start()
    coordination.wait_for_devices(10)


def test_keys_that_cannot_be_read_end_the_wait(coordination: Coordination, others: Others, keys: JobKeys) -> None:
    seen = coordination.observe()
    threading.Timer(0.2, others.put, (keys.phase, Control())).start()
    with pytest.raises(CoordinationLost, match="can no longer be followed"):
        coordination.wait_for_change(seen, 10)
