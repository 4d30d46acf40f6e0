import pytest

from dataplane.mesh.health import Health, Status


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_sidecar_is_ready_when_every_part_is_well() -> None:
    health = Health(["enclave", "worker"], monotonic=Clock())
    assert health.status.value == "starting", "nobody has said anything"
    health.report("enclave", ok=True)
    assert health.status.value == "starting", "one part is missing"
    health.report("worker", ok=True)
    assert health.status is Status.HEALTHY, "both are well"
    assert health.ready, "and work may come"


def test_silence_is_no_good_news() -> None:
    clock = Clock()
    health = Health(["worker"], monotonic=clock, max_age_s=5)
    health.report("worker", ok=True)
    clock.now = 5.1
    assert health.status is Status.DEGRADED, "an old report counts as a failure"
    assert "5.1 s" in health.why_not()["worker"], "and the reason says how old"


def test_a_failed_part_says_why() -> None:
    health = Health(["worker", "enclave"], monotonic=Clock())
    health.report("worker", ok=False, detail="does not answer")
    assert health.status is Status.DEGRADED, "one failure is enough, even while another part has said nothing"
    assert health.why_not() == {"worker": "does not answer", "enclave": "has not reported yet"}, "each with its reason"


def test_draining_is_never_ready() -> None:
    health = Health(["worker"], monotonic=Clock())
    health.report("worker", ok=True)
    health.draining = True
    assert health.status is Status.DRAINING, "whatever the parts say"
    assert not health.ready, "nothing new may come"


def test_only_a_change_is_news() -> None:
    health = Health(["worker"], monotonic=Clock())
    assert health.report("worker", ok=True), "the first word is news"
    assert not health.report("worker", ok=True), "the same again is not"
    assert health.report("worker", ok=False), "a change is"


def test_a_part_that_nobody_named_is_a_bug() -> None:
    with pytest.raises(KeyError):
        Health(["worker"], monotonic=Clock()).report("wroker", ok=True)
