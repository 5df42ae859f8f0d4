"""The checker of the soak finds what is wrong, and its plans do what they promise."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from poormanray.cli import local_fault
from scripts import soak_check, soak_plan
from scripts.soak import FULL, Soak, document, table
from scripts.soak_check import Job, Ran, Struck, Told, View
from scripts.soak_faults import Tally
from scripts.soak_job import script, texts
from scripts.soak_round import Round

ONE, TWO = "i-1", "i-2"
JOB = Job(
    "1ng00000000",
    codes=(0, 3),
    texts=("a @\n", ""),
    ran=(Ran(0, 1, ONE, 100.0, 101.0), Ran(1, 1, TWO, 100.0, 102.0)),
)
TOLD = (Told(0, ONE, "SUCCEEDED", 0), Told(1, TWO, "FAILED", 3))
VIEW = View("map", 1, TOLD, logs={0: "a i-1\n", 1: ""})
LOST = View("map", 4, (Told(0, ONE, "LOST", None), TOLD[1]), final=True)


def wrong(job: Job = JOB, view: View = VIEW) -> str:
    return "; ".join(soak_check.judged(job, view))


def test_nothing_is_wrong_about_the_truth() -> None:
    assert wrong() == ""


def test_a_task_that_ran_twice() -> None:
    again = replace(JOB, ran=(*JOB.ran, Ran(0, 1, TWO, 103.0, 104.0)))
    assert "task 0 ran 2 times" in wrong(again)


def test_a_task_that_ran_again_after_a_loss() -> None:
    again = replace(JOB, ran=(Ran(0, 1, TWO, 99.0), Ran(0, 2, ONE, 103.0, 104.0), JOB.ran[1]))
    told = replace(VIEW, tasks=(Told(0, ONE, "SUCCEEDED", 0, attempt=2), TOLD[1]))
    assert "in 2 attempts" in wrong(again, told)
    lost = replace(again, struck=(Struck("instance-terminate", TWO, 102.0),))
    assert wrong(lost, told) == ""
    assert "of which 1 are told" in wrong(lost, replace(VIEW, final=True))
    # Who asked before it ran again cannot tell of it.
    assert "of which 1 are told" not in wrong(lost, VIEW)


def test_a_task_that_nobody_tells_of() -> None:
    assert "task 0 ran and is not told of" in wrong(view=replace(VIEW, tasks=TOLD[1:]))


def test_a_task_that_is_told_twice() -> None:
    assert "told 2 times" in wrong(view=replace(VIEW, tasks=(*TOLD, TOLD[0])))


@pytest.mark.parametrize("state", ["SUCCEEDED", "FAILED"])
def test_an_end_that_never_came(state: str) -> None:
    told = replace(VIEW, tasks=(Told(0, ONE, state, 0), TOLD[1]))
    assert "it never ran" in wrong(replace(JOB, ran=JOB.ran[1:]), told)
    begun = replace(JOB, ran=(Ran(0, 1, ONE, 100.0), JOB.ran[1]))
    assert "never came to its end" in wrong(begun, told)


def test_a_wrong_code_of_a_task() -> None:
    assert "it ended with 3" in wrong(
        view=replace(VIEW, tasks=(TOLD[0], Told(1, TWO, "FAILED", 4)))
    )
    good = replace(VIEW, tasks=(TOLD[0], Told(1, TWO, "SUCCEEDED", 0)), exit_code=0)
    assert "it ended with 3" in wrong(view=good)


def test_a_wrong_exit_code() -> None:
    assert "exit code 0 where its outcomes make 1" in wrong(view=replace(VIEW, exit_code=0))


def test_the_exit_code_of_an_only_task() -> None:
    alone = View("run", 3, TOLD[1:], is_run=True, counts_left_out=True)
    assert soak_check.code_for(alone) == 3
    assert soak_check.code_for(replace(alone, left_out=(ONE,))) == 4
    late = replace(alone, tasks=(Told(0, ONE, "TIMEOUT", None),))
    assert soak_check.code_for(late) == 124


@pytest.mark.parametrize("state", ["PENDING", "RUNNING"])
def test_a_task_that_is_said_to_go_on(state: str) -> None:
    assert state in wrong(view=replace(VIEW, tasks=(Told(0, ONE, state, None), TOLD[1])))


def test_suspended_only_on_a_stopped_instance() -> None:
    waits = Told(0, ONE, "PENDING", None, reason="suspended: it is stopped")
    view = replace(VIEW, tasks=(waits, TOLD[1]), exit_code=4)
    unborn = replace(JOB, ran=JOB.ran[1:])
    assert "is not stopped" in wrong(unborn, view)
    stopped = replace(unborn, struck=(Struck("instance-stop", ONE, 99.0),))
    assert wrong(stopped, view) == ""
    never = replace(view, tasks=(replace(waits, reason=""), TOLD[1]))
    assert "is not stopped" in wrong(stopped, never)


def test_unresponsive_only_where_a_fault_explains_it() -> None:
    for state, reason in (
        ("RUNNING", "no response for 9 min"),
        ("PENDING", "no response"),
    ):
        waits = Told(0, ONE, state, None, reason=reason)
        view = replace(VIEW, tasks=(waits, TOLD[1]), exit_code=4)
        unborn = replace(JOB, ran=JOB.ran[1:])
        assert wrong(unborn, view) != ""
        assert wrong(replace(unborn, struck=(Struck("agent-hibernate", TWO, 99.0),)), view) != ""
        crashed = replace(unborn, struck=(Struck("instance-crash", ONE, 99.0),))
        assert wrong(crashed, view) == ""
        assert "exit code" in wrong(crashed, replace(view, exit_code=0))
        unexplained = replace(view, tasks=(replace(waits, reason=""), TOLD[1]))
        assert wrong(crashed, unexplained) != ""
        killed = replace(unborn, struck=(Struck("runner-kill", ONE, 99.0),))
        assert wrong(killed, view) != ""


def test_lost_only_where_a_fault_explains_it() -> None:
    assert "no fault explains it" in wrong(view=LOST)
    elsewhere = replace(JOB, struck=(Struck("runner-kill", TWO, 100.5),))
    assert "no fault explains it" in wrong(elsewhere, LOST)
    here = replace(JOB, struck=(Struck("runner-kill", ONE, 100.5),))
    assert wrong(here, LOST) == ""
    agent = replace(JOB, struck=(Struck("agent-hibernate", ONE, 100.5),))
    assert "no fault explains it" in wrong(agent, LOST)
    assert wrong(agent, replace(LOST, final=False)) == ""


def test_lost_long_after_its_end() -> None:
    late = replace(JOB, struck=(Struck("runner-kill", ONE, 110.0),))
    assert "had ended long before" in wrong(late, LOST)
    gone = replace(JOB, struck=(Struck("instance-terminate", ONE, 110.0),))
    assert wrong(gone, LOST) == ""


def test_timed_out_and_cancelled_only_where_asked_for() -> None:
    late = View("map", 1, (Told(0, ONE, "TIMEOUT", None), TOLD[1]))
    assert "it has no timeout" in wrong(view=late)
    assert "ended after 1.0 s" in wrong(replace(JOB, timeout_s=4), late)
    ended = View("map", 1, (Told(0, ONE, "CANCELLED", None), TOLD[1]))
    assert "nobody cancelled it" in wrong(view=ended)
    assert "it had ended before" in wrong(replace(JOB, cancelled_at=110.0), ended)


def test_left_out_only_where_a_fault_explains_it() -> None:
    view = View("run", 4, TOLD, left_out=("i-3",), is_run=True, counts_left_out=True)
    assert "i-3 was left out" in wrong(view=view)
    assert wrong(replace(JOB, struck=(Struck("instance-stop", "i-3", 99.0),)), view) == ""


@pytest.mark.parametrize("got", ["", "a i-2\n", "a i-1\na i-1\n"])
def test_a_wrong_log(got: str) -> None:
    assert "on is wrong" in wrong(view=replace(VIEW, logs={0: got, 1: ""}))


def test_a_log_is_cut_short_only_where_its_instance_has_ended_and_so_it_is_told() -> None:
    cut = replace(VIEW, logs={0: f"a{soak_check.GAP}", 1: ""})
    assert "on is wrong" in wrong(view=cut)
    gone = replace(JOB, struck=(Struck("instance-reclaim", ONE, 110.0),))
    assert wrong(gone, cut) == ""
    assert "on is wrong" in wrong(gone, replace(VIEW, logs={0: "a", 1: ""}))
    assert "on is wrong" in wrong(gone, replace(VIEW, logs={0: f"b{soak_check.GAP}", 1: ""}))


def test_on_another_instance() -> None:
    assert "it ran on" in wrong(view=replace(VIEW, tasks=(Told(0, TWO, "SUCCEEDED", 0), TOLD[1])))


# --- plans -------------------------------------------------------------------------------------


def test_every_kind_of_fault_has_its_place() -> None:
    assert sorted((*soak_plan.KINDS, *soak_plan.UNPLAYED)) == sorted(local_fault.KINDS)


def test_a_round_is_decided_by_its_seed_and_number() -> None:
    assert soak_plan.plan(5, 17) == soak_plan.plan(5, 17)
    assert soak_plan.plan(5, 17) != soak_plan.plan(6, 17)


@pytest.mark.parametrize("seed", range(5))
def test_a_full_soak_plans_everything_often_enough(seed: int) -> None:
    plans = [soak_plan.plan(seed, number) for number in range(FULL)]
    kinds = Counter(fault.kind for plan in plans for fault in plan.faults)
    kinds += Counter(fault.undo for plan in plans for fault in plan.faults if fault.undo)
    assert min(kinds[kind] for kind in soak_plan.KINDS) >= 20
    jobs = [job for plan in plans for job in plan.jobs]
    assert sum(len(job.kills) for job in jobs) > 120
    assert min(Counter(job.kind for job in jobs).values()) > 100
    assert sum(job.cancel_s is not None for job in jobs) > 40
    assert sum(plan.rest for plan in plans) > 40


def test_no_job_id_is_used_twice() -> None:
    ids = [job.own_id for n in range(FULL) for job in soak_plan.plan(1, n).jobs if job.own_id]
    assert len(set(ids)) == len(ids)
    assert all(len(one) == 11 for one in ids)


def test_a_script_has_each_task() -> None:
    job = soak_plan.JobPlan("run", (soak_plan.TaskPlan(1.5, 2, 7), soak_plan.TaskPlan(0, 0, 0, 9)))
    assert "0) work 1.5 2 7 0 ;;\n1) work 0 0 0 9 ;;" in script(job, "m")
    assert texts(job, "m") == ["m 0 @ 0\nm 0 @ 1\n", ""]
    assert job.tasks[1].told_code == 137


# --- the report --------------------------------------------------------------------------------


def soaked(rounds: int) -> Soak:
    faults = {kind: Tally(1, 1, 2) for kind in soak_plan.KINDS}
    commands = dict.fromkeys(("create", "run", "map", "logs -f", "cancel", "pause", "resume"), 1)
    some = [Round(1, n, 2, 1, commands=commands, faults=faults, kills=1) for n in range(rounds)]
    return Soak(1, 9.0, some, isolation="namespaces")


def test_a_full_soak_must_have_done_everything_often_enough() -> None:
    assert soaked(FULL).missing() == []
    assert soaked(3).missing() == []
    short = soaked(FULL)
    for one in short.rounds[19:]:
        one.faults = {}
        one.kills = 0
        one.commands = {}
    assert "throttle: 19 of 20" in short.missing()
    assert "killed clients: 19 of 60" in short.missing()
    assert "cancel: 19 of 30" in short.missing()
    late = soaked(FULL)
    late.took_s = 1801
    assert late.missing() == ["1801 s instead of 1800 s"]


def test_the_report_names_what_failed() -> None:
    done = soaked(3)
    done.rounds[2].wrong.append("task 0 ran 2 times")
    assert document(done)["failed_rounds"] == 1
    assert document(done)["faults"]["slow"] == {
        "ordered": 3,
        "took": 3,
        "strikes": 6,
        "rounds": 3,
        "failures": 1,
    }
    assert "## Round 2\n\n- task 0 ran 2 times" in table(done)
    assert "| slow | 3 | 3 | 6 | 3 | 1 |" in table(done)
