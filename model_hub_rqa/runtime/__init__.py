"""Where Determined 0.38.1 (its last release) is touched inside: no other folder uses a private name of it.

Each line is a fact about Determined, and what answers it. ``tests/unit/test_layers.py`` keeps private names in here.

=========================================================  ============================================================
Determined                                                 here
=========================================================  ============================================================
resumes a local run with data and batches at 0             `determined_controller.LocalController`
takes "best" for "all" in a local run                      the same
copies the working directory into local checkpoints        `determined_controller.local_controller`
writes local checkpoints that a kill leaves half done      `local_checkpoints.LocalCheckpoints`
looks for a stop at reports alone, each rank by itself     `LocalController`; ``_SearcherStop`` of `determined_cluster`
loses the steps since the last checkpoint on an error      `determined_controller.keep_last_step`
knows gradient accumulation as optimizations alone         `determined_fixes.set_accumulation`, ``without_sync``
resumes with the rate that the old schedule had next       `determined_fixes.ScheduleCallback`
writes checkpoints that other loaders refuse, without sums `determined_fixes.CheckpointCallback`
makes no process group in a local run                      `determined_fixes.join_process_group`
does not take a BatchEncoding for a dict                   `determined_fixes.take_batch_encodings`
restores checkpoints on a cluster unverified               `determined_cluster.patch_context`
starts a wrong configuration anew, five times              `cluster_run.raising_invalid_hp`
only trains, and cannot validate alone                     `determined_cluster.validation_on_cluster`
=========================================================  ============================================================

Beside them stand what a run is made of: `experiments` (from a file to a trial class), `local_run` (reports of a local
run), `resuming`, `run_length`, `finite` (losses that are no numbers), `metric_names` and `summary`.
"""
