"""From activities to rows of bars. Pure."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

from tandem_rollout.page.contents import Bar, Lane, Timeline
from tandem_rollout.storage.history import ActivityRecord

MAX_BARS = 12_000
"""More make the page slow to open on a phone (about 60 bytes each)."""
MAX_PODS = 24


def build_timeline(activities: Sequence[ActivityRecord]) -> Timeline:
    """The timeline of all pods. Of very many pods the first by name are shown, of very many activities the newest."""
    pods = sorted({activity.pod for activity in activities}, key=natural_order)
    shown_pods = pods[:MAX_PODS]
    merged = merge_activities(activity for activity in activities if activity.pod in set(shown_pods))
    shown = sorted(sorted(merged, key=lambda activity: activity.started_at)[-MAX_BARS:], key=lambda a: a.started_at)
    left_out = []
    if len(pods) > len(shown_pods):
        left_out.append(f"{len(pods) - len(shown_pods)} of {len(pods)} pods")
    if len(merged) > len(shown):
        left_out.append(f"activities before iteration {shown[0].iteration}")
    lanes = build_lanes(shown)
    place = {(lane.pod, name): number for number, lane in enumerate(lanes) for name in lane.names}
    origin = min((activity.started_at for activity in shown), default=0.0)
    return Timeline(
        lanes=lanes,
        names=list(dict.fromkeys(activity.name for activity in shown)),
        bars=[
            Bar(
                lane=place[activity.pod, activity.name],
                name=activity.name,
                iteration=activity.iteration,
                start=round(activity.started_at - origin, 3),
                end=round(activity.ended_at - origin, 3),
            )
            for activity in shown
        ],
        left_out=" and ".join(left_out),
        origin=origin,
    )


def merge_activities(activities: Iterable[ActivityRecord]) -> list[ActivityRecord]:
    """Overlapping activities of the same pod, name and iteration as one: the ranks of a pod do the same at once."""
    alike: dict[tuple[str, str, int], list[ActivityRecord]] = defaultdict(list)
    for activity in activities:
        alike[activity.pod, activity.name, activity.iteration].append(activity)
    return [whole for group in alike.values() for whole in _merge(group)]


def build_lanes(activities: Sequence[ActivityRecord]) -> list[Lane]:
    """As few rows as possible for each pod, such that no two activities in a row overlap; a name stays in its row."""
    by_pod: dict[str, dict[str, list[ActivityRecord]]] = defaultdict(lambda: defaultdict(list))
    for activity in sorted(activities, key=lambda activity: activity.started_at):
        by_pod[activity.pod][activity.name].append(activity)
    lanes = []
    for pod in sorted(by_pod, key=natural_order):
        rows: list[tuple[list[str], list[ActivityRecord]]] = []
        for name, own in by_pod[pod].items():
            row = next((row for row in rows if not _overlap(row[1], own)), None)
            if row is None:
                rows.append(([name], list(own)))
            else:
                row[0].append(name)
                row[1].extend(own)
        lanes += [Lane(pod=pod, names=names) for names, _ in rows]
    return lanes


def _merge(group: list[ActivityRecord]) -> list[ActivityRecord]:
    merged: list[ActivityRecord] = []
    for activity in sorted(group, key=lambda activity: activity.started_at):
        last = merged[-1] if merged else None
        if last is not None and activity.started_at <= last.ended_at:
            merged[-1] = ActivityRecord(
                last.pod, last.name, last.iteration, last.started_at, max(last.ended_at, activity.ended_at)
            )
        else:
            merged.append(activity)
    return merged


def _overlap(first: Sequence[ActivityRecord], second: Sequence[ActivityRecord]) -> bool:
    """Whether any of `first` overlaps any of `second`: one pass over both by start."""
    ordered = sorted(
        [(activity.started_at, activity.ended_at, 0) for activity in first]
        + [(activity.started_at, activity.ended_at, 1) for activity in second]
    )
    ends = [float("-inf"), float("-inf")]
    for started_at, ended_at, side in ordered:
        if started_at < ends[1 - side]:
            return True
        ends[side] = max(ends[side], ended_at)
    return False


def natural_order(pod: str) -> tuple[str, int, str]:
    """pod-2 before pod-10."""
    stem, _, number = pod.rpartition("-")
    return (stem, int(number), "") if number.isdigit() else (pod, -1, "")
