"""The metrics of a sequence of stages: what is gained, kept, lost and transferred, and how fast it is learned."""

from __future__ import annotations

from perdure.agent.metrics import run_readings as read
from perdure.agent.metrics.formulas import accuracy, forgetting_measures, gain_and_drop, transfer
from perdure.agent.metrics.metric import Metric

PAPER = "Chen et al. 2025 (2510.18874)"
GEM = "Lopez-Paz & Ranzato 2017 (GEM)"
RWALK = "Chaudhry et al. 2018 (RWalk)"
WORLD = "Wołczyk et al. 2021 (Continual World)"
MRCL = "MRCL 2026 (2607.04364)"

SEQUENCE_METRICS: tuple[Metric, ...] = (
    Metric(
        key="gain",
        name="gain",
        formula="mean over targets of R[T][j] - R[0][j]",
        source=PAPER,
        unit="score",
        better="higher",
        of_run=lambda run, _: gain_and_drop.gain(run.main.matrix),
    ),
    Metric(
        key="drop",
        name="drop",
        formula="mean over subjects that were never a target of R[0][j] - R[T][j]",
        source=PAPER,
        unit="score",
        better="lower",
        of_run=lambda run, _: gain_and_drop.drop(run.main.matrix),
    ),
    Metric(
        key="acc",
        name="average accuracy (ACC)",
        formula="mean over learned j of R[T][j]",
        source=GEM,
        unit="score",
        better="higher",
        of_run=lambda run, _: accuracy.average_accuracy(run.main.matrix),
    ),
    Metric(
        key="aia",
        name="average incremental accuracy",
        formula="mean over stages i of the mean over j learned so far of R[i][j]",
        source="Rebuffi et al. 2017 (iCaRL)",
        unit="score",
        better="higher",
        of_run=lambda run, _: accuracy.average_incremental_accuracy(run.main.matrix),
    ),
    Metric(
        key="learned",
        name="score when learned (MFT)",
        formula="mean over learned j of R[j][j]",
        source=MRCL,
        unit="score",
        better="higher",
        of_run=lambda run, _: accuracy.learned_accuracy(run.main.matrix),
    ),
    Metric(
        key="bwt",
        name="backward transfer (BWT)",
        formula="mean over j learned before T of R[T][j] - R[j][j]",
        source=GEM,
        unit="score",
        better="higher",
        of_run=lambda run, _: transfer.backward_transfer(run.main.matrix),
    ),
    Metric(
        key="fwt",
        name="forward transfer (FWT)",
        formula="mean over j first learned after stage 1 of R[j-1][j] - R[0][j]",
        source=GEM,
        unit="score",
        better="higher",
        of_run=lambda run, _: transfer.forward_transfer(run.main.matrix),
    ),
    Metric(
        key="area_transfer",
        name="forward transfer as area",
        formula="mean over j of (AUC_j - AUC_j of a single-task run) / (1 - the latter)",
        source=WORLD,
        unit="share",
        better="higher",
        of_run=read.read_area_transfer,
    ),
    Metric(
        key="forgetting_best",
        name="forgetting from the best",
        formula="mean over j learned before T of max over l = 1..T-1 of R[l][j] - R[T][j]",
        source=RWALK,
        unit="score",
        better="lower",
        of_run=lambda run, _: forgetting_measures.forgetting_from_best(run.main.matrix),
    ),
    Metric(
        key="forgetting_chance",
        name="the same if nothing had changed",
        formula="its mean over shuffles of each item's scores over the stages: the bias of the line above",
        source="permutation null",
        unit="score",
        better="neither",
        of_run=lambda run, _: forgetting_measures.forgetting_by_chance(run.main),
    ),
    Metric(
        key="forgetting_first",
        name="forgetting since first learned",
        formula="mean over j learned before T of R[j][j] - R[T][j]",
        source="Lomonaco et al. 2021 (Avalanche)",
        unit="score",
        better="lower",
        of_run=lambda run, _: forgetting_measures.forgetting_since_learned(run.main.matrix),
    ),
    Metric(
        key="retention",
        name="retention ratio (MFN / MFT)",
        formula="sum over j learned before T of R[T][j] / sum of R[j][j]",
        source=MRCL,
        unit="share",
        better="higher",
        of_run=lambda run, _: forgetting_measures.retention_ratio(run.main.matrix),
    ),
    Metric(
        key="intransigence_joint",
        name="intransigence against joint",
        formula="mean over learned j of the joint run's score - R[j][j]",
        source=RWALK,
        unit="score",
        better="lower",
        of_run=lambda run, beside: read.read_intransigence(run, beside.joint),
    ),
    Metric(
        key="intransigence_single",
        name="intransigence against single tasks",
        formula="mean over learned j of the single-task run's score - R[j][j]",
        source=RWALK,
        unit="score",
        better="lower",
        of_run=lambda run, beside: read.read_intransigence(run, beside.single),
    ),
    Metric(
        key="auc",
        name="area under the learning curve (AUC)",
        formula="mean height of the target's curve within its first stage, trapezoid rule",
        source=WORLD,
        unit="score",
        better="higher",
        of_run=lambda run, _: read.read_area(run),
    ),
    Metric(
        key="lca",
        name="learning curve area (LCA, 10 updates)",
        formula="(1/11) sum over b = 0..10 of the target's score after b updates",
        source="Chaudhry et al. 2019 (A-GEM)",
        unit="score",
        better="higher",
        of_run=lambda run, _: read.read_lca(run),
    ),
    Metric(
        key="savings",
        name="relearning savings",
        formula="(N_first - N_again) / N_first, N the updates to 90 % of the first gain",
        source="Ebbinghaus 1885",
        unit="share",
        better="higher",
        of_run=lambda run, _: read.read_savings(run),
    ),
)
