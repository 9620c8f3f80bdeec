"""What a repair would do about each kind of damage, and what would be lost."""

from dataclasses import dataclass, field

from headwater_server.engine.check.findings import Kind, Report


@dataclass(frozen=True, slots=True)
class Action:
    """One step of a repair.

    Attributes:
        kinds: the kinds of findings that it fixes.
        what: what would be done.
        gives_up: what would be lost; empty if nothing.
    """

    kinds: tuple[Kind, ...]
    what: str
    gives_up: str

    def __str__(self) -> str:
        return f"{self.what}. Gives up: {self.gives_up or 'nothing'}."


@dataclass(slots=True)
class Plan:
    """The result of a check, and what a repair would do about it, in order.

    Attributes:
        report: what the check found.
        actions: what would be done.
        hopeless: findings that cannot be repaired here.
    """

    report: Report
    actions: list[Action] = field(default_factory=list)
    hopeless: list[str] = field(default_factory=list)


def plan_of(report: Report) -> Plan:
    """What a repair would do about what a check found."""
    found = Plan(report)
    for finding in report.findings:
        if finding.kind is Kind.DIRECTORY:
            found.hopeless.append(f"{finding}; {finding.remedy}")
    for action in (
        _store_action(report),
        _log_action(report),
        _later_action(report),
        _commits_action(report),
        _events_action(report),
        _offsets_action(report),
        _index_action(report),
        _transactions_action(report),
        _versions_action(report),
        _snapshots_action(report),
        _clock_action(report),
    ):
        if action is not None:
            found.actions.append(action)
    return found


def _count(report: Report, *kinds: Kind) -> int:
    return sum(finding.kind in kinds for finding in report.findings)


def _store_action(report: Report) -> Action | None:
    if report.has(Kind.APPLIED) and not report.has(Kind.STORE):
        return Action(
            (Kind.APPLIED,),
            "Take everything before the write-ahead log as applied, then rebuild all indexes",
            "all older versions of keys",
        )
    if not report.has(Kind.STORE):
        return None
    return Action(
        (Kind.STORE,),
        "Copy what can be read of the state store into a new one, keep the old one, and rebuild "
        "all indexes from the logs",
        "keys whose newest value is in a damaged block and not in the write-ahead log, and all "
        f"older versions: commits before {report.applied.commit} can no longer be read",
    )


def _log_action(report: Report) -> Action | None:
    findings = [each for each in report.findings if each.kind in (Kind.LOG, Kind.LOG_GAP)]
    if not findings:
        return None
    return Action(
        (Kind.LOG, Kind.LOG_GAP),
        "Cut the write-ahead log before the damage and keep a copy of the rest",
        "; ".join(finding.what for finding in findings),
    )


def _later_action(report: Report) -> Action | None:
    kinds = (Kind.LATER_COMMITS, Kind.LATER_EVENTS)
    findings = [each for each in report.findings if each.kind in kinds]
    if not findings:
        return None
    return Action(
        kinds,
        "Cut the logs after the newest commit of state store and write-ahead log; keep copies",
        "; ".join(finding.what for finding in findings),
    )


def _commits_action(report: Report) -> Action | None:
    if not report.has(Kind.COMMIT, Kind.COMMIT_FILE):
        return None
    numbers = [each.number for each in report.findings if each.kind is Kind.COMMIT]
    named = f" ({', '.join(map(str, numbers[:20]))})" if numbers else ""
    return Action(
        (Kind.COMMIT, Kind.COMMIT_FILE),
        f"Rebuild {len(numbers) or 'all damaged'} records of the commit log{named} "
        "from their neighbours, their events and the transaction index; keep the old file",
        "who made these commits, the time of those that had no events, and the ids of "
        "transactions that the index has forgotten",
    )


def _events_action(report: Report) -> Action | None:
    if not report.has(Kind.EVENT, Kind.EVENT_FILE):
        return None
    numbers = [each.number for each in report.findings if each.kind is Kind.EVENT and each.number]
    named = f" at positions {', '.join(map(str, numbers[:20]))}" if numbers else ""
    return Action(
        (Kind.EVENT, Kind.EVENT_FILE),
        f"Take {len(numbers) or 'all damaged'} events{named} from the write-ahead log; if it "
        'no longer has them, replace them by events of the type "$damaged" without data; keep '
        "the old files",
        "type, data and metadata of those that the write-ahead log no longer has",
    )


def _offsets_action(report: Report) -> Action | None:
    count = _count(report, Kind.OFFSETS)
    if not count:
        return None
    return Action((Kind.OFFSETS,), f"Rebuild {count} .idx files from the events", "")


def _index_action(report: Report) -> Action | None:
    if not report.has(Kind.INDEX, Kind.EVENT_IDS):
        return None
    return Action(
        (Kind.INDEX, Kind.EVENT_IDS),
        "Rebuild the index of streams, categories, types and event ids from the events",
        "",
    )


def _transactions_action(report: Report) -> Action | None:
    if not report.has(Kind.TRANSACTIONS):
        return None
    return Action(
        (Kind.TRANSACTIONS,),
        "Rebuild the index of transaction ids from the commit log",
        "the status of transactions that the commit log does not name",
    )


def _versions_action(report: Report) -> Action | None:
    if not report.has(Kind.VERSIONS):
        return None
    return Action(
        (Kind.VERSIONS,),
        "Keep the newest value of every key, and drop all older versions",
        f"the history: commits before {report.applied.commit} can no longer be read",
    )


def _snapshots_action(report: Report) -> Action | None:
    count = _count(report, Kind.SNAPSHOT)
    if not count:
        return None
    return Action((Kind.SNAPSHOT,), f"Remove {count} snapshots", "")


def _clock_action(report: Report) -> Action | None:
    if not report.warnings:
        return None
    return Action(
        (Kind.CLOCK,),
        "Change the time of all commits and events that are dated in the future to the present; "
        "keep the old files",
        "their times, which were wrong; and the status of transactions whose ids were made "
        "before the present and are forgotten",
    )
