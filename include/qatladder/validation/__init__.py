"""Climbs a ladder: plans the zoo, runs each rung's checks, joins the answers into verdicts.

The CLI, the DAGs and the UI call these functions and nothing else:

    ladders = plan()
    unchanged = carry_over(ladders, run_id, print)
    for ladder in ladders:
        for rung in ladder["rungs"] if ladder not in unchanged else ():
            run_rung(ladder, rung, run_id, print)
        finish_ladder(ladder, run_id)
    finish_run(ladders, run_id)

Every call reads what it needs from the object store and writes what it found there, so the rungs of one ladder may run
in different processes on different machines.
"""

from qatladder.validation.run import carry_over, finish_ladder, finish_run, new_run_id, plan, run_rung

__all__ = ["carry_over", "finish_ladder", "finish_run", "new_run_id", "plan", "run_rung"]
